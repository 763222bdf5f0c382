//! `tidemark ctl SOCKET backup`: one disk to one file, from the file's creation to its last flush.
//!
//! The daemon copies; this side prepares the target, starts the job, shows its progress and cleans up: whatever
//! happens, neither a job nor a node of it stays in the daemon, unless it is killed or asked to end twice.

pub mod interrupt;
pub mod progress;
mod target;

use super::daemon::{Daemon, Disk, Job, which};
use anyhow::{Context as _, Result, anyhow, bail};
use interrupt::Interrupt;
use progress::Progress;
use std::path::{Path, PathBuf};
use std::time::Duration;
use target::Target;

/// How often the job is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Options of `tidemark ctl SOCKET backup`.
#[derive(clap::Args, Debug)]
pub struct BackupOptions {
    /// The disk: the id of its export, or the name of its node.
    pub disk: String,
    /// Where the backup goes: a raw image of the disk's size. A file that does not exist is created.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Copy only what this bitmap marks. FILE is a copy of the backup since which the bitmap records; if all goes well,
    /// the bitmap records since this backup from then on, and otherwise it keeps all it marks.
    #[arg(long, value_name = "BITMAP")]
    pub incremental: Option<String>,
    /// A full backup may go over a file or block device that exists.
    #[arg(long, conflicts_with = "incremental")]
    pub overwrite: bool,
}

/// How a backup that did not fail has ended.
pub enum End {
    /// It is on stable storage.
    Complete,
    /// Cancelled by a signal, and all cleaned up.
    Cancelled {
        /// Which.
        signal: i32,
    },
}

/// Makes the backup.
///
/// # Errors
/// There is no such daemon, disk or bitmap, the target cannot be used, or the job failed. The text says what has become
/// of the file.
pub fn run(socket: &Path, options: &BackupOptions) -> Result<End> {
    let interrupt = Interrupt::watch()?;
    let mut daemon = Daemon::connect(socket)?;
    let disk = daemon.disk(&options.disk)?;
    if let Some(bitmap) = &options.incremental {
        require_bitmap(&disk, bitmap, &options.disk)?;
    }
    let target = Target::prepare(options, disk.size)?;
    let mut session =
        Session { daemon: &mut daemon, options, disk: &disk, target: &target, name: name(), started: false };
    match session.run(&interrupt) {
        Ok(None) => Ok(End::Complete),
        Ok(Some(signal)) => {
            eprintln!("tidemark: cancelled; {}", target.fate(session.started));
            Ok(End::Cancelled { signal })
        }
        Err(error) => Err(anyhow!("{error:#}; {}", target.fate(session.started))),
    }
}

/// What job and target node are called in the daemon.
fn name() -> String {
    format!("ctl-backup-{}", std::process::id())
}

fn require_bitmap(disk: &Disk, bitmap: &str, name: &str) -> Result<()> {
    if !disk.bitmaps.iter().any(|known| known == bitmap) {
        let known = which("there are", disk.bitmaps.iter().map(String::as_str));
        bail!(
            "disk '{name}' has no bitmap '{bitmap}'; {known}. An incremental backup needs one that was there before \
             the backup it follows: block-dirty-bitmap-add node={} name={bitmap}, then a full backup",
            disk.node
        );
    }
    Ok(())
}

/// What lives in the daemon for the time of the backup.
struct Session<'a> {
    daemon: &'a mut Daemon,
    options: &'a BackupOptions,
    disk: &'a Disk,
    target: &'a Target,
    name: String,
    /// Whether there was a job, so that the target may have changed.
    started: bool,
}

impl Session<'_> {
    /// Adds the target, runs the job, removes the target; says by which signal it was cancelled.
    fn run(&mut self, interrupt: &Interrupt) -> Result<Option<i32>> {
        let refused = format!("the daemon cannot use '{}'", self.target.path.display());
        self.daemon.execute("blockdev-add", &self.target.node(&self.name)).context(refused)?;
        let mut progress = Progress::new(&self.options.disk)?;
        let end = self.job(interrupt, &mut progress);
        let removed = self.daemon.delete_node(&self.name);
        let (job, signal) = end?;
        removed.context("the backup has ended, but the daemon does not let go of the file")?;
        match (job.error, signal) {
            // Both: it had failed before it could be cancelled, or this is what its cancellation looks like.
            (_, Some(signal)) => Ok(Some(signal)),
            (Some(error), None) => Err(anyhow!(error).context(format!("the backup of '{}' failed", self.options.disk))),
            (None, None) => {
                self.target.flush()?;
                progress.finish(job.done, &self.target.path);
                Ok(None)
            }
        }
    }

    /// Runs the job to its end, cancelled or not.
    fn job(&mut self, interrupt: &Interrupt, progress: &mut Progress) -> Result<(Job, Option<i32>)> {
        let mut arguments: Vec<String> = [("job-id", &self.name), ("device", &self.disk.node), ("target", &self.name)]
            .map(|(argument, value)| format!("{argument}={value}"))
            .into();
        arguments.push("auto-dismiss=off".into());
        match &self.options.incremental {
            None => arguments.push("sync=full".into()),
            Some(bitmap) => arguments.extend(["sync=incremental".into(), format!("bitmap={bitmap}")]),
        }
        self.daemon.execute("blockdev-backup", &arguments).context("the backup does not start")?;
        self.started = true;
        let mut cancelled = None;
        let job = loop {
            let job = self.daemon.job(&self.name)?.context("somebody else has dismissed the job")?;
            if job.is_concluded() {
                break job;
            }
            progress.show(&job);
            if cancelled.is_none()
                && let Some(signal) = interrupt.signal()
            {
                cancelled = self.cancel()?.then_some(signal);
            }
            std::thread::sleep(TICK);
        };
        self.daemon.dismiss(&self.name)?;
        // What has succeeded in spite of the signal is a backup.
        Ok((job.clone(), cancelled.filter(|_| job.error.is_some())))
    }

    /// Asks the job to end; false if it is ending by itself.
    fn cancel(&mut self) -> Result<bool> {
        use qmp_lite::client::ClientError;
        match self.daemon.execute("job-cancel", &[format!("id={}", self.name)]) {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
