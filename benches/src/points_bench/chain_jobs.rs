//! Stream, commit and mirror of a disk whose chain has half of it allocated, every other MiB, in memory: how long each
//! takes, and how long a guest's requests take meanwhile.
//!
//! The chain is `base`, `middle` and `top`, of which one has the data: what is copied is as much in every case. Files
//! that are written to are new each time. Time runs from the command until the job is gone or, of a mirror, ready.
//! The guest has one request of 4 KiB at a time, half of them writes, and sends the same ones to the same new images
//! without the job, for as long as that took alone, and beside it. A mirror that follows such a guest need not ever be
//! ready: none is waited for longer than four times as long.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_benches::clocked::{Clocked, Operation, percentile};
use tidemark_benches::cpu::Machine;
use tidemark_benches::daemon::{Daemon, Export};
use tidemark_benches::load::as_f64;
use tidemark_benches::monitor::{Monitor, is_gone};
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::{median, ratio};
use tidemark_benches::turns::order;

use crate::cli::Options;
use crate::peer::Peer;

const MEMORY: &str = "/dev/shm";
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(300);
/// How many times as long as alone a job is watched beside a guest.
const WATCHED: u32 = 4;

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    /// The data of `base` to `top`.
    Stream,
    /// The data of `middle` to `base`.
    Commit,
    /// All of it to a new image.
    Mirror,
}

impl Job {
    /// The image with the data.
    fn full(self) -> &'static str {
        if self == Job::Commit { "middle" } else { "base" }
    }

    fn command(self) -> (&'static str, Value) {
        match self {
            Job::Stream => ("block-stream", json!({ "job-id": "j", "device": "top" })),
            Job::Commit => {
                ("block-commit", json!({ "job-id": "j", "device": "top", "top-node": "middle", "base-node": "base" }))
            }
            Job::Mirror => {
                ("blockdev-mirror", json!({ "job-id": "j", "device": "top", "target": "t", "sync": "full" }))
            }
        }
    }

    fn is_over(self, event: &Value) -> bool {
        match self {
            Job::Mirror => event["event"] == "BLOCK_JOB_READY",
            _ => is_gone(event, "j"),
        }
    }
}

/// The files.
struct Images {
    dir: TempDir,
    size: u64,
    job: Job,
}

impl Images {
    fn prepare(job: Job, size: u64) -> Result<Images> {
        let dir = tempfile::tempdir_in(MEMORY).context("images are kept in memory")?;
        let images = Images { dir, size, job };
        images.fill()?;
        Ok(images)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("qemu-img");
        let status = command.args(arguments).current_dir(self.path()).status().context("cannot run qemu-img")?;
        ensure!(status.success(), "qemu-img {arguments:?} failed");
        Ok(())
    }

    /// The image with the data: random bytes, every other MiB.
    fn fill(&self) -> Result<()> {
        let raw = File::create(self.path().join("raw"))?;
        raw.set_len(self.size)?;
        let mut bytes = vec![0; usize::try_from(MIB)?];
        let mut rng = Rng::with_seed(5);
        for at in (0..self.size / MIB).step_by(2) {
            rng.fill(&mut bytes);
            raw.write_all_at(&bytes, at * MIB)?;
        }
        self.run(&["convert", "-f", "raw", "-O", "qcow2", "raw", "full"])?;
        fs::remove_file(self.path().join("raw"))?;
        Ok(())
    }

    /// All but the image with the data, empty.
    fn renew(&self) -> Result<()> {
        let size = self.size.to_string();
        for (name, below) in [("base", None), ("middle", Some("base")), ("top", Some("middle")), ("t", None)] {
            let name = if name == self.job.full() { "full" } else { name };
            let below = below.map(|below| if below == self.job.full() { "full" } else { below });
            if name == "full" {
                if let Some(below) = below {
                    self.run(&["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, name])?;
                }
                continue;
            }
            let mut arguments = vec!["create", "-q", "-f", "qcow2", "-u"];
            arguments.extend(below.iter().flat_map(|below| ["-F", "qcow2", "-b", *below]));
            self.run(&[&arguments[..], &[name, &size]].concat())?;
        }
        Ok(())
    }

    fn blockdevs(&self) -> Vec<String> {
        let file = |name: &str| self.path().join(if name == self.job.full() { "full" } else { name });
        let node = |name: &str, below: Option<&str>| {
            let (file, backing) = (file(name), below.map_or(Value::Null, |below| json!(below)));
            let file = json!({ "driver": "file", "filename": file });
            json!({ "driver": "qcow2", "node-name": name, "file": file, "backing": backing }).to_string()
        };
        vec![node("base", None), node("middle", Some("base")), node("top", Some("middle")), node("t", None)]
    }
}

/// A daemon's results.
struct Contender {
    peer: Peer,
    seconds: Vec<f64>,
    idle_us: Vec<f64>,
    busy_us: Vec<f64>,
    /// How long the job was watched beside a guest.
    beside: Vec<f64>,
}

impl Contender {
    /// The job alone.
    fn time(&mut self, images: &Images, options: &Options, machine: &Machine) -> Result<()> {
        images.renew()?;
        let daemon = Daemon::start(self.peer.program(options), &images.blockdevs(), &[], machine)?;
        let mut monitor = daemon.monitor()?;
        let start = Instant::now();
        begin(images.job, &mut monitor)?;
        while !ended(images.job, &mut monitor)? {
            ensure!(start.elapsed() < PATIENCE, "the job does not end");
            std::thread::sleep(Duration::from_micros(200));
        }
        self.seconds.push(start.elapsed().as_secs_f64());
        Ok(())
    }

    /// A guest without it and beside it.
    fn watch(&mut self, images: &Images, options: &Options, machine: &Machine) -> Result<()> {
        let alone = Duration::from_secs_f64(self.seconds.last().copied().unwrap_or(1.0));
        let (idle, _) =
            self.attend(images, options, machine, |_, guest| requests(guest, images.size, |now| Ok(now > alone)))?;
        let (busy, beside) = self.attend(images, options, machine, |monitor, guest| {
            begin(images.job, monitor)?;
            requests(guest, images.size, |now| Ok(ended(images.job, monitor)? || now > alone * WATCHED))
        })?;
        self.idle_us.push(idle);
        self.busy_us.push(busy);
        self.beside.push(beside);
        Ok(())
    }

    /// A guest of new images.
    fn attend(
        &self,
        images: &Images,
        options: &Options,
        machine: &Machine,
        run: impl FnOnce(&mut Monitor, &mut Clocked) -> Result<(f64, f64)>,
    ) -> Result<(f64, f64)> {
        images.renew()?;
        let export = Export { node: "top", queues: 1 };
        let daemon = Daemon::start(self.peer.program(options), &images.blockdevs(), &[export], machine)?;
        let mut monitor = daemon.monitor()?;
        let mut guest = Clocked::new(vec![daemon.connect(export)?], 1, u32::try_from(BLOCK)?)?;
        run(&mut monitor, &mut guest)
    }
}

fn begin(job: Job, monitor: &mut Monitor) -> Result<()> {
    let (command, arguments) = job.command();
    monitor.execute(command, arguments).map(drop)
}

fn ended(job: Job, monitor: &mut Monitor) -> Result<bool> {
    while let Some(event) = monitor.event()? {
        ensure!(event.pointer("/data/error").is_none(), "the job failed: {event}");
        if job.is_over(&event) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A guest's requests until something is over; the 99th percentile of how long they took, in microseconds, and how many
/// seconds that was.
fn requests(guest: &mut Clocked, size: u64, mut over: impl FnMut(Duration) -> Result<bool>) -> Result<(f64, f64)> {
    let mut rng = Rng::with_seed(11);
    let is_over = std::cell::Cell::new(false);
    let plan = |_| {
        let operation = Operation { offset: rng.u64(..size / BLOCK) * BLOCK, is_write: rng.bool() };
        (!is_over.get()).then_some(operation)
    };
    let mut turns = 0u32;
    let between = |now| {
        turns = turns.wrapping_add(1);
        // A look is a system call of the guest's thread.
        if turns.is_multiple_of(256) && !is_over.get() {
            is_over.set(over(now)?);
        }
        Ok(())
    };
    let timed = guest.run(Duration::ZERO, plan, between)?;
    Ok((as_f64(percentile(&timed.all_ns(), 0.99)) / 1000.0, timed.elapsed.as_secs_f64()))
}

/// Runs a case.
pub fn run(name: &str, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let job = match name {
        name if name.ends_with("stream") => Job::Stream,
        name if name.ends_with("commit") => Job::Commit,
        _ => Job::Mirror,
    };
    let images = Images::prepare(job, u64::from(options.size) * MIB)?;
    let contender = |peer| {
        let (seconds, idle_us, busy_us, beside) = Default::default();
        Contender { peer, seconds, idle_us, busy_us, beside }
    };
    let mut contenders = Peer::BOTH.map(contender);
    for round in 0..options.pairs() {
        for index in order(contenders.len(), round) {
            let Some(contender) = contenders.get_mut(index) else { continue };
            print_progress(round, options.pairs(), &format!("{name} {}", contender.peer.name()));
            contender.time(&images, options, machine)?;
            contender.watch(&images, options, machine)?;
        }
    }
    print_progress(options.pairs(), options.pairs(), name);
    show(&images, &contenders, report);
    Ok(())
}

fn show(images: &Images, contenders: &[Contender; 2], report: &mut Report) {
    report.note(&format!("{} MiB, half of it allocated", images.size / MIB));
    for Contender { peer, seconds, idle_us, busy_us, beside } in contenders {
        report.samples(peer.name(), "alone", "seconds", seconds);
        report.samples(peer.name(), "beside a guest", "seconds", beside);
        report.samples(peer.name(), "no job", "p99 us", idle_us);
        report.samples(peer.name(), "job", "p99 us", busy_us);
    }
    let [ours, qsd] = contenders;
    report.point("time: tidemark / qsd", ratio(&ours.seconds, &qsd.seconds), Target::AtMost(1.0));
    report.point("tidemark: p99 beside the job / without", ratio(&ours.busy_us, &ours.idle_us), Target::AtMost(3.0));
    report.point("qsd: the same", ratio(&qsd.busy_us, &qsd.idle_us), Target::Shown);
    let speed = ours.seconds.iter().map(|seconds| as_f64(images.size / 2) / seconds / as_f64(MIB));
    report.point("tidemark: MiB/s", Some(median(speed)), Target::Shown);
}
