//! Takes points in time of several disks as a backup tool does: everything of one point in one transaction.
//!
//! Each point adds a bitmap to every disk, which records from then on; an incremental backup copies what the bitmap of
//! the point before it marks, onto a copy of that point's files. Speaks to the serving process by its control socket
//! and knows nothing of what the guest does meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::history::Clock;
use super::proof::Moment;
use super::{clone, create_disk};
use crate::ctl::daemon::Daemon;

/// How often jobs are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long a backup may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// A point in time that was taken.
pub struct Point {
    /// Its files, in the order of the disks.
    pub files: Vec<PathBuf>,
    /// When it was taken.
    pub moment: Moment,
    /// How long the transaction took.
    pub freeze: Duration,
    /// From the transaction to the end of the last job.
    pub took: Duration,
    /// Bytes the jobs copied.
    pub copied: u64,
    /// Copies made because a guest was about to write.
    pub before_writes: u64,
    /// Whether its files share with those of the point before.
    pub shared: bool,
}

/// The disks of a serving process, and the points taken of them.
pub struct Points {
    daemon: Daemon,
    dir: PathBuf,
    nodes: Vec<String>,
    size: u64,
    taken: usize,
}

impl Points {
    /// Of disks called `disk0`, `disk1`, …, of `size` bytes each, with files in `dir`.
    ///
    /// # Errors
    /// If the serving process takes no commands.
    pub fn new(control: &Path, dir: &Path, disks: usize, size: u64) -> Result<Points> {
        let daemon = Daemon::connect(control)?;
        let nodes = (0..disks).map(|disk| format!("disk{disk}")).collect();
        Ok(Points { daemon, dir: dir.to_owned(), nodes, size, taken: 0 })
    }

    /// Takes a point of all disks: the first one in full, others with what has changed since the one before.
    ///
    /// # Errors
    /// If the serving process refuses anything or a job fails.
    pub fn take(&mut self, clock: &Clock) -> Result<Point> {
        let number = self.taken;
        let (files, shared) = self.prepare(number).context("preparing the targets")?;
        let actions = self.actions(number);
        let (start, sent) = (Instant::now(), clock.tick());
        self.daemon.execute("transaction", &actions).context("transaction")?;
        let (moment, freeze) = (Moment { sent, replied: clock.tick() }, start.elapsed());
        let (mut copied, mut before_writes) = (0, 0);
        for disk in 0..self.nodes.len() {
            let name = target(number, disk);
            copied += self.finished(&name, start)?;
            before_writes += self.daemon.copies_before_writes(&name)?;
            self.daemon.dismiss(&name)?;
            self.daemon.delete_node(&name)?;
        }
        let took = start.elapsed();
        self.forget_before(number)?;
        self.taken += 1;
        Ok(Point { files, moment, freeze, took, copied, before_writes, shared })
    }

    /// Files and nodes that the backups go to; whether the files share with those of the point before.
    fn prepare(&mut self, number: usize) -> Result<(Vec<PathBuf>, bool)> {
        let (mut files, mut shared) = (Vec::new(), false);
        for disk in 0..self.nodes.len() {
            let file = |number| self.dir.join(format!("{}.raw", target(number, disk)));
            match number.checked_sub(1) {
                None => create_disk(&file(number), self.size)?,
                Some(before) => {
                    let copy = file(number);
                    shared = clone::clone(&file(before), &copy).with_context(|| format!("{}", copy.display()))?;
                }
            }
            let path = file(number);
            let arguments = [
                "driver=file".to_owned(),
                format!("node-name={}", target(number, disk)),
                format!("filename={}", path.to_str().context("a temporary directory whose name is not UTF-8")?),
                "discard=unmap".to_owned(),
            ];
            self.daemon.execute("blockdev-add", &arguments)?;
            files.push(path);
        }
        Ok((files, shared))
    }

    fn actions(&self, number: usize) -> Vec<String> {
        let mut words = Vec::new();
        let mut action = |kind: &str, data: &[(&str, String)]| {
            let index = words.iter().filter(|word: &&String| word.contains(".type=")).count();
            words.push(format!("actions.{index}.type={kind}"));
            words.extend(data.iter().map(|(name, value)| format!("actions.{index}.data.{name}={value}")));
        };
        for (disk, node) in self.nodes.iter().enumerate() {
            action("block-dirty-bitmap-add", &[("node", node.clone()), ("name", bitmap(number))]);
            let name = target(number, disk);
            let mut backup = vec![("job-id", name.clone()), ("device", node.clone()), ("target", name)];
            match number.checked_sub(1) {
                None => backup.push(("sync", "full".into())),
                Some(before) => backup.extend([("sync", "incremental".into()), ("bitmap", bitmap(before))]),
            }
            backup.push(("auto-dismiss", "off".into()));
            action("blockdev-backup", &backup);
        }
        words
    }

    /// Waits for the end of a job; says how many bytes it copied.
    fn finished(&mut self, job: &str, start: Instant) -> Result<u64> {
        loop {
            let state = self.daemon.job(job)?.with_context(|| format!("there is no job {job}"))?;
            if state.is_concluded() {
                if let Some(error) = state.error {
                    bail!("job {job} failed: {error}");
                }
                return Ok(state.done);
            }
            ensure!(start.elapsed() < DEADLINE, "job {job} does not end: {state:?}");
            std::thread::sleep(TICK);
        }
    }

    /// Removes the bitmaps of the point before, which its successor has used up.
    fn forget_before(&mut self, number: usize) -> Result<()> {
        let Some(before) = number.checked_sub(1) else { return Ok(()) };
        for node in &self.nodes {
            let arguments = [format!("node={node}"), format!("name={}", bitmap(before))];
            self.daemon.execute("block-dirty-bitmap-remove", &arguments)?;
        }
        Ok(())
    }
}

/// Job, node and file of a backup.
fn target(number: usize, disk: usize) -> String {
    format!("point{number}-disk{disk}")
}

fn bitmap(number: usize) -> String {
    format!("point{number}")
}
