//! `--daemonize`: the command returns when the daemon is ready, not before, and fails when the daemon does.
//!
//! Nothing may be forked once there are threads, and nothing here needs to be: the program starts itself again in a
//! session of its own, with a pipe as standard input, and leaves when the other has written to it. The copy knows what
//! it is by a variable with its parent's process id.

use super::Refusal;
use anyhow::Context as _;
use std::fs::OpenOptions;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

/// Names the process that waits for this one.
const VARIABLE: &str = "TIDEMARK_DAEMONIZED_BY";

/// Whether somebody waits for us to be ready.
#[derive(Debug)]
pub struct Background {
    awaited: bool,
}

impl Background {
    /// Stays where it is.
    pub fn foreground() -> Self {
        Self { awaited: false }
    }

    /// In the first process: starts the daemon and gives, as error, the status to exit with. In the daemon: leaves the
    /// session of its starter. To be called before there are threads.
    pub fn enter() -> Result<Self, ExitCode> {
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
        if parent.is_some() && std::env::var(VARIABLE).ok() == parent {
            // Fails only in the leader of a process group, which a child is not.
            let _ = rustix::process::setsid();
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
            return Ok(Self { awaited: true });
        }
        Err(start_daemon().unwrap_or_else(|error| Refusal::from(error).report(None)))
    }

    /// Everything the command line asked for is done: lets the starter go, and lets go of its terminal and directory.
    ///
    /// # Errors
    /// There is no `/dev/null`, or the starter is gone.
    pub fn ready(self) -> anyhow::Result<()> {
        if !self.awaited {
            return Ok(());
        }
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
        std::env::set_current_dir("/").context("cannot change to /")?;
        let starter = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // Last: whoever waits may look at once, and must find a daemon that has let go of everything.
        rustix::io::write(&starter, b"r").context("the process that started the daemon is gone")?;
        Ok(())
    }
}

/// Starts the daemon and waits until it is ready or has failed, which it reports itself.
fn start_daemon() -> anyhow::Result<ExitCode> {
    let (mut ready, signal) = std::io::pipe().context("cannot make a pipe")?;
    let own = std::env::current_exe().context("cannot find the program's own file")?;
    let mut command = Command::new(own);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, std::process::id().to_string()).stdin(Stdio::from(signal));
    let child = command.spawn().context("cannot start the daemon")?;
    // It holds the pipe's other end.
    drop(command);
    let mut byte = [0];
    let answered = ready.read(&mut byte).context("cannot wait for the daemon")? == 1;
    // The daemon outlives us; the system takes it over.
    drop(child);
    Ok(if answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
