//! The control socket of `tidemark serve`: a QMP monitor that only its owner may use.

use anyhow::{Context as _, anyhow};
use qmp_lite::chardev::Chardev;
use qmp_lite::dispatch::Dispatcher;
use qmp_lite::monitor::{Monitor, MonitorOptions};
use rustix::fs::Mode;
use std::path::Path;
use std::sync::Arc;

/// Starts a monitor on a UNIX socket at `path`, mode 0600.
///
/// # Errors
/// The socket cannot be listened on; the text names it.
pub fn start(path: &Path, dispatcher: Arc<Dispatcher>) -> anyhow::Result<Monitor> {
    let path = std::path::absolute(path).context("there is no current directory")?;
    let text = path.to_str().with_context(|| format!("--qmp {}: the path is not valid UTF-8", path.display()))?;
    let option = format!("socket,id=qmp,server=on,wait=off,path={}", text.replace(',', ",,"));
    // A socket's mode is what the umask leaves of 0777. Nothing else is created meanwhile.
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let opened = Chardev::open(&option);
    rustix::process::umask(umask);
    let failed = |error| anyhow!("--qmp {text}: {error}");
    let options = MonitorOptions::parse("qmp").map_err(failed)?;
    Monitor::start(opened.map_err(failed)?, &options, dispatcher).context("cannot start a thread for --qmp")
}
