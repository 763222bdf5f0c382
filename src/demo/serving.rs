//! The serving process as a child: started, killed, started again, asked how much CPU it used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tidemark_frontend::Error;

/// Name of the file that takes what the child prints.
pub const LOG: &str = "serve.log";
/// How long it may take until it listens: after a kill the kernel may hold the dead one's locks for a while.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a clean end may take.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// The child, ended with its handle.
pub struct Serving {
    program: PathBuf,
    /// Each with the socket it is served on.
    disks: Vec<(PathBuf, PathBuf)>,
    control: PathBuf,
    log: File,
    child: Child,
    /// CPU time of those before this one.
    spent: Duration,
}

impl Serving {
    /// Starts `program serve` for these disks, with sockets and the log in `dir`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &Path, dir: &Path, disks: &[PathBuf]) -> Result<Serving> {
        let log = File::create(dir.join(LOG)).context("cannot create the log")?;
        let socket = |(index, disk): (usize, &PathBuf)| (disk.clone(), dir.join(format!("disk{index}.sock")));
        let disks: Vec<_> = disks.iter().enumerate().map(socket).collect();
        let control = dir.join("control.sock");
        let child = spawn(program, &disks, &control, &log)?;
        Ok(Serving { program: program.to_owned(), disks, control, log, child, spent: Duration::ZERO })
    }

    /// Where it listens for guests, in the order of the disks.
    pub fn sockets(&self) -> Vec<PathBuf> {
        self.disks.iter().map(|(_, socket)| socket.clone()).collect()
    }

    /// Where it takes commands.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Makes sure that it lives.
    ///
    /// # Errors
    /// If it has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the serving process ended by itself: {status}");
        }
        Ok(())
    }

    /// Tries to connect until it works, as long as the process lives and does not take too long.
    ///
    /// # Errors
    /// If it ended, nobody listened before the deadline, or anything but connecting failed.
    pub fn until_reached<T>(&mut self, mut connect: impl FnMut() -> Result<T, Error>) -> Result<T> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            match connect() {
                Err(Error::Connect { .. }) if Instant::now() < deadline => self.ensure_running()?,
                done => return Ok(done?),
            }
        }
    }

    /// Kills it as nothing in it can notice (SIGKILL).
    ///
    /// # Errors
    /// If it had ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        self.ensure_running()?;
        self.spent += cpu_time(self.child.id())?;
        self.child.kill().context("cannot kill the serving process")?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again in the same place, the dead one's socket still lying there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.program, &self.disks, &self.control, &self.log)?;
        Ok(())
    }

    /// CPU time of all incarnations so far.
    ///
    /// # Errors
    /// If it has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        Ok(self.spent + cpu_time(self.child.id())?)
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// If it does not end, or not with success.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
        kill_process(pid, Signal::TERM).context("cannot signal the serving process")?;
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the serving process ended with {status}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the serving process does not end after SIGTERM");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // After `stop` it is gone already; after an error nobody needs it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, disks: &[(PathBuf, PathBuf)], control: &Path, log: &File) -> Result<Child> {
    let target = |(disk, socket): &(PathBuf, PathBuf)| {
        let mut target = disk.clone().into_os_string();
        target.push(":");
        target.push(socket);
        target
    };
    Command::new(program)
        .arg("serve")
        .args(disks.iter().map(target))
        .arg("--qmp")
        .arg(control)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot run {} serve", program.display()))
}

/// CPU time of all threads that live, io_uring's workers included, from `/proc/PID/task/TID/schedstat`.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut ns = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task")).context("the serving process has ended")? {
        // A thread may end between listing and reading.
        let text = fs::read_to_string(entry?.path().join("schedstat")).unwrap_or_default();
        ns += text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(ns))
}
