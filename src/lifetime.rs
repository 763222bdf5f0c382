//! How long a daemon runs: until a signal or a `quit` asks for its end.
//!
//! SIGTERM, SIGINT and SIGHUP ask; a second one ends the process at once, as if it had no handler, so that a daemon that
//! hangs on its storage can still be ended. Knows nothing of what runs.

use anyhow::Context as _;
use qmp_lite::context::Quit;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::sync::Arc;

/// Lets signals ask `quit` for the end.
///
/// # Errors
/// The system refuses a handler or a thread.
pub fn obey_signals(quit: Arc<Quit>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGXFSZ]).context("cannot handle signals")?;
    let wait = move || {
        // A guest's write past the file size limit (setrlimit(2)) is an error to the guest; the signal is only kept
        // from ending the process.
        for signal in signals.forever().filter(|signal| *signal != SIGXFSZ) {
            if quit.is_requested() {
                // Does not return for these signals.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            tracing::info!("ending on {}", signal_hook::low_level::signal_name(signal).unwrap_or("a signal"));
            quit.request();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}
