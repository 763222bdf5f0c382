//! A full backup of an idle disk of random data, raw file to raw file on the same file system.
//!
//! The source is in the page cache. The target is a new sparse file each time, and nothing dirty is left of the one
//! before. Time runs from the command until the job is gone, for `qemu-img` from its start until its end. A backup ends
//! with a flush of the target; `qemu-img convert` only does with `-t writeback`, so it is measured with that, too.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_benches::cpu::Machine;
use tidemark_benches::daemon::Daemon;
use tidemark_benches::monitor::Monitor;
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::ratio;
use tidemark_benches::storage::{Files, Storage};
use tidemark_benches::turns::order;

use crate::cli::Options;
use crate::peer::Peer;

/// What qemu-storage-daemon is tried with beside its default of 64.
const WORKERS: [u32; 4] = [1, 4, 16, 32];

/// A disk and the place of its copies.
struct Disk {
    files: Files,
    storage: Storage,
    target: TempDir,
}

impl Disk {
    fn prepare(storage: Storage, options: &Options) -> Result<Disk> {
        let files = Files::prepare(&options.dir, options.size.saturating_mul(2))?;
        let dir = if storage == Storage::Tmpfs { Path::new("/dev/shm") } else { &options.dir };
        let target = tempfile::tempdir_in(dir).with_context(|| format!("cannot use {}", dir.display()))?;
        Ok(Disk { files, storage, target })
    }

    fn source(&self) -> Result<&Path> {
        self.files.path(self.storage).context("the storage has a file")
    }

    fn target(&self) -> PathBuf {
        self.target.path().join("target.raw")
    }

    /// A new target, with nothing left to write back.
    fn renew(&self) -> Result<()> {
        if self.target().exists() {
            fs::remove_file(self.target())?;
        }
        rustix::fs::sync();
        self.files.warm(self.storage)?;
        File::create(self.target())?.set_len(self.files.size())?;
        Ok(())
    }
}

/// A way to make the copy.
enum Way {
    /// `blockdev-backup` of a daemon, with more arguments.
    Daemon { _daemon: Box<Daemon>, monitor: Box<Monitor>, more: Value },
    /// `qemu-img convert` with more arguments.
    Convert { core: usize, more: &'static [&'static str] },
}

/// A way, its name and its times.
struct Contender {
    name: String,
    way: Way,
    seconds: Vec<f64>,
}

impl Contender {
    fn daemon(
        peer: Peer,
        name: String,
        more: Value,
        disk: &Disk,
        options: &Options,
        machine: &Machine,
    ) -> Result<Self> {
        let blockdev = disk.files.blockdev(disk.storage, "");
        let daemon = Daemon::start(peer.program(options), &[blockdev], &[], machine)?;
        let monitor = Box::new(daemon.monitor()?);
        Ok(Contender { name, way: Way::Daemon { _daemon: Box::new(daemon), monitor, more }, seconds: Vec::new() })
    }

    fn all(disk: &Disk, options: &Options, machine: &Machine) -> Result<Vec<Contender>> {
        let daemon = |peer, name: &str, more| Self::daemon(peer, name.to_owned(), more, disk, options, machine);
        let convert = |name: &str, more| {
            let way = Way::Convert { core: machine.peer_core, more };
            Contender { name: name.to_owned(), way, seconds: Vec::new() }
        };
        let workers = best_workers(disk, options, machine)?;
        let best = json!({ "x-perf": { "max-workers": workers } });
        Ok(vec![
            daemon(Peer::Tidemark, "tidemark", json!({}))?,
            daemon(Peer::Qsd, "qsd", json!({}))?,
            daemon(Peer::Qsd, &format!("qsd max-workers={workers}"), best)?,
            convert("qemu-img convert", &[]),
            convert("qemu-img convert -t writeback", &["-t", "writeback"]),
        ])
    }

    fn copy(&mut self, disk: &Disk) -> Result<Duration> {
        disk.renew()?;
        match &mut self.way {
            Way::Daemon { monitor, more, .. } => backup(monitor, more, disk),
            Way::Convert { core, more } => convert(*core, more, disk),
        }
    }
}

fn backup(monitor: &mut Monitor, more: &Value, disk: &Disk) -> Result<Duration> {
    let file = json!({ "driver": "file", "node-name": "t", "locking": "off", "filename": disk.target() });
    monitor.execute("blockdev-add", file)?;
    let mut arguments = json!({ "job-id": "j", "device": "d", "target": "t", "sync": "full" });
    if let (Some(arguments), Some(more)) = (arguments.as_object_mut(), more.as_object()) {
        arguments.extend(more.clone());
    }
    let start = Instant::now();
    monitor.execute("blockdev-backup", arguments)?;
    monitor.job_gone("j")?;
    let elapsed = start.elapsed();
    monitor.execute("blockdev-del", json!({ "node-name": "t" }))?;
    Ok(elapsed)
}

fn convert(core: usize, more: &[&str], disk: &Disk) -> Result<Duration> {
    let start = Instant::now();
    let output = Command::new("taskset")
        .args(["-c", &core.to_string(), "qemu-img", "convert", "-U", "-n", "-W", "-m", "16"])
        .args(["-f", "raw", "-O", "raw"])
        .args(more)
        .args([disk.source()?, &disk.target()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run taskset")?;
    let elapsed = start.elapsed();
    anyhow::ensure!(output.status.success(), "qemu-img: {}", String::from_utf8_lossy(&output.stderr));
    Ok(elapsed)
}

/// The number of workers with which qemu-storage-daemon is fastest, of one copy each.
fn best_workers(disk: &Disk, options: &Options, machine: &Machine) -> Result<u32> {
    let mut best = (0, Duration::MAX);
    for workers in WORKERS {
        let more = json!({ "x-perf": { "max-workers": workers } });
        let name = format!("workers {workers}");
        let took = Contender::daemon(Peer::Qsd, name, more, disk, options, machine)?.copy(disk)?;
        if took < best.1 {
            best = (workers, took);
        }
    }
    Ok(best.0)
}

/// Runs a case.
pub fn run(name: &str, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let storage = if name.ends_with("tmpfs") { Storage::Tmpfs } else { Storage::Cached };
    let disk = Disk::prepare(storage, options)?;
    let mut contenders = Contender::all(&disk, options, machine)?;
    for round in 0..options.pairs() {
        for index in order(contenders.len(), round) {
            let Some(contender) = contenders.get_mut(index) else { continue };
            print_progress(round, options.pairs(), &format!("{name} {}", contender.name));
            let took = contender.copy(&disk)?;
            contender.seconds.push(took.as_secs_f64());
            if round == 0 {
                let (source, target) = (disk.source()?, disk.target());
                anyhow::ensure!(are_equal(source, &target)?, "{}: the copy differs from the disk", contender.name);
            }
        }
    }
    print_progress(options.pairs(), options.pairs(), name);
    report.note(&format!("{} MiB; every copy of the first round was compared", disk.files.size() >> 20));
    for Contender { name, seconds, .. } in &contenders {
        report.samples(name, "full backup", "seconds", seconds);
    }
    if let Some((ours, others)) = contenders.split_first() {
        for other in others {
            let what = format!("time: tidemark / {}", other.name);
            report.point(&what, ratio(&ours.seconds, &other.seconds), Target::AtMost(1.0));
        }
    }
    Ok(())
}

fn are_equal(one: &Path, other: &Path) -> Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(other.read(&mut right)? == 0);
        }
        let (left, right) = (left.get(..read).unwrap_or_default(), right.get_mut(..read).unwrap_or_default());
        if other.read_exact(right).is_err() || left != right {
            return Ok(false);
        }
    }
}
