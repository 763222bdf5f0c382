//! A guest that writes while `blockdev-backup` with sync=none keeps a point in time: what is overwritten is copied
//! first, to a raw target on tmpfs. The source is on tmpfs, too; both files have all their blocks.
//!
//! Every first write lies in another 64 KiB, so that each needs a copy in either daemon, whatever its chunks are.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::json;
use tempfile::TempDir;
use tidemark_benches::clocked::{Clocked, Operation, Timed, percentile};
use tidemark_benches::cpu::Machine;
use tidemark_benches::daemon::{Daemon, Export};
use tidemark_benches::load::as_f64;
use tidemark_benches::monitor::Monitor;
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::ratio;
use tidemark_benches::storage::{Files, Storage};
use tidemark_benches::turns::order;

use crate::cli::Options;
use crate::peer::Peer;

/// The chunk of qemu-storage-daemon, the larger one.
const CLUSTER: u64 = 64 << 10;
const BLOCK: u64 = 4 << 10;
const LARGE: u64 = 1 << 20;
const EXPORT: Export<'static> = Export { node: "d", queues: 1 };

/// The source and its target.
struct Disks {
    files: Files,
    target: TempDir,
}

impl Disks {
    fn prepare(options: &Options) -> Result<Disks> {
        let files = Files::prepare(&options.dir, options.size)?;
        let target = tempfile::tempdir_in("/dev/shm").context("cannot use /dev/shm")?;
        let source = files.path(Storage::Tmpfs).context("tmpfs has a file")?;
        fs::copy(source, target.path().join("target.raw")).context("cannot write the target")?;
        Ok(Disks { files, target })
    }

    fn target(&self) -> String {
        blockdev("t", &self.target.path().join("target.raw"))
    }
}

fn blockdev(node: &str, path: &Path) -> String {
    format!("driver=file,node-name={node},locking=off,filename={}", path.display())
}

/// A daemon, its guest and the results.
struct Contender {
    peer: Peer,
    _daemon: Daemon,
    monitor: Monitor,
    guest: Clocked,
    alone: Series,
    copying: Series,
    again: Series,
}

/// What one state gave, by round.
#[derive(Default)]
struct Series {
    rate: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

impl Series {
    fn push(&mut self, timed: &Timed) {
        let writes = timed.writes_ns();
        let us = |share| as_f64(percentile(&writes, share)) / 1000.0;
        self.rate.push(as_f64(writes.len() as u64) / timed.elapsed.as_secs_f64());
        self.p50_us.push(us(0.5));
        self.p99_us.push(us(0.99));
    }

    fn show(&self, peer: Peer, state: &str, report: &mut Report) {
        report.samples(peer.name(), state, "writes/s", &self.rate);
        report.samples(peer.name(), state, "p50 us", &self.p50_us);
        report.samples(peer.name(), state, "p99 us", &self.p99_us);
    }
}

impl Contender {
    fn start(peer: Peer, disks: &Disks, depth: u16, len: u64, options: &Options, machine: &Machine) -> Result<Self> {
        let blockdevs = [disks.files.blockdev(Storage::Tmpfs, ""), disks.target()];
        let daemon = Daemon::start(peer.program(options), &blockdevs, &[EXPORT], machine)?;
        let guest = Clocked::new(vec![daemon.connect(EXPORT)?], depth, u32::try_from(len)?)?;
        let monitor = daemon.monitor()?;
        let [alone, copying, again] = Default::default();
        Ok(Contender { peer, _daemon: daemon, monitor, guest, alone, copying, again })
    }

    fn both(disks: &Disks, depth: u16, len: u64, options: &Options, machine: &Machine) -> Result<Vec<Self>> {
        Peer::BOTH.into_iter().map(|peer| Self::start(peer, disks, depth, len, options, machine)).collect()
    }

    /// Writes each offset once.
    fn write_once(&mut self, offsets: &[u64]) -> Result<Timed> {
        let mut offsets = offsets.iter();
        let plan = |_| offsets.next().map(|offset| Operation { offset: *offset, is_write: true });
        self.guest.run(Duration::ZERO, plan, |_| Ok(()))
    }

    /// Writes to these offsets, again and again.
    fn write_for(&mut self, offsets: &[u64], duration: Duration) -> Result<Timed> {
        let mut offsets = offsets.iter().cycle();
        let plan = |now| {
            let next = offsets.next().filter(|_| now < duration);
            next.map(|offset| Operation { offset: *offset, is_write: true })
        };
        self.guest.run(Duration::ZERO, plan, |_| Ok(()))
    }

    fn begin(&mut self) -> Result<()> {
        let arguments = json!({ "job-id": "j", "device": "d", "target": "t", "sync": "none" });
        self.monitor.execute("blockdev-backup", arguments).map(drop)
    }

    /// Ends the backup, of which the guest's writes must have copied as good as all of `bytes`.
    fn end(&mut self, bytes: u64) -> Result<()> {
        let jobs = self.monitor.execute("query-block-jobs", json!({}))?;
        let copied = jobs.pointer("/0/offset").and_then(serde_json::Value::as_u64).unwrap_or(0);
        anyhow::ensure!(copied >= bytes / 100 * 99, "{copied} bytes were copied: writes did not need {bytes}");
        self.monitor.execute("block-job-cancel", json!({ "device": "j", "force": true }))?;
        self.monitor.job_gone("j")
    }
}

/// Runs the case of small writes: the first to each place, then more to the same places.
pub fn first_writes(name: &str, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let disks = Disks::prepare(options)?;
    let mut contenders = Contender::both(&disks, 32, BLOCK, options, machine)?;
    let mut rng = Rng::with_seed(9);
    for round in 0..options.pairs() {
        let mut offsets: Vec<u64> = (0..disks.files.size() / CLUSTER).map(|index| index * CLUSTER).collect();
        rng.shuffle(&mut offsets);
        offsets.iter_mut().for_each(|offset| *offset += rng.u64(..CLUSTER / BLOCK) * BLOCK);
        for index in order(contenders.len(), round) {
            let Some(contender) = contenders.get_mut(index) else { continue };
            print_progress(round, options.pairs(), &format!("{name} {}", contender.peer.name()));
            let alone = contender.write_for(&offsets, options.duration())?;
            contender.alone.push(&alone);
            contender.begin()?;
            let first = contender.write_once(&offsets)?;
            contender.copying.push(&first);
            let again = contender.write_for(&offsets, options.duration())?;
            contender.again.push(&again);
            contender.end(offsets.len() as u64 * BLOCK)?;
        }
    }
    print_progress(options.pairs(), options.pairs(), name);
    show_first_writes(&contenders, report);
    Ok(())
}

fn show_first_writes(contenders: &[Contender], report: &mut Report) {
    for Contender { peer, alone, copying, again, .. } in contenders {
        alone.show(*peer, "no backup", report);
        copying.show(*peer, "first writes", report);
        again.show(*peer, "second writes", report);
    }
    if let [ours, theirs] = contenders {
        let rate = ratio(&ours.copying.rate, &theirs.copying.rate);
        report.point("first writes per second: tidemark / qsd", rate, Target::AtLeast(3.0));
    }
    for Contender { peer, alone, copying, again, .. } in contenders {
        let target = if *peer == Peer::Tidemark { Target::AtMost(1.5) } else { Target::Shown };
        let mut point = |what: &str, value, target| report.point(&format!("{}, {what}", peer.name()), value, target);
        point("first writes per second / no backup", ratio(&copying.rate, &alone.rate), Target::Shown);
        point("second writes, p50 / no backup", ratio(&again.p50_us, &alone.p50_us), Target::Shown);
        point("second writes, p99 / no backup", ratio(&again.p99_us, &alone.p99_us), target);
    }
}

/// Runs the case of large writes, front to back, each byte of which needs a copy.
pub fn sequential(name: &str, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let disks = Disks::prepare(options)?;
    let mut contenders = Contender::both(&disks, 8, LARGE, options, machine)?;
    let offsets: Vec<u64> = (0..disks.files.size() / LARGE).map(|index| index * LARGE).collect();
    for round in 0..options.pairs() {
        for index in order(contenders.len(), round) {
            let Some(contender) = contenders.get_mut(index) else { continue };
            print_progress(round, options.pairs(), &format!("{name} {}", contender.peer.name()));
            let alone = contender.write_once(&offsets)?;
            contender.alone.push(&alone);
            contender.begin()?;
            let first = contender.write_once(&offsets)?;
            contender.copying.push(&first);
            contender.end(disks.files.size())?;
        }
    }
    print_progress(options.pairs(), options.pairs(), name);
    for Contender { peer, alone, copying, .. } in &contenders {
        alone.show(*peer, "no backup", report);
        copying.show(*peer, "1 MiB writes that copy", report);
    }
    for Contender { peer, alone, copying, .. } in &contenders {
        let target = if *peer == Peer::Tidemark { Target::AtLeast(0.5) } else { Target::Shown };
        let what = format!("{}, 1 MiB writes per second that copy / no backup", peer.name());
        report.point(&what, ratio(&copying.rate, &alone.rate), target);
    }
    if let [ours, theirs] = contenders.as_slice() {
        let rate = ratio(&ours.copying.rate, &theirs.copying.rate);
        report.point("1 MiB writes per second that copy: tidemark / qsd", rate, Target::Shown);
    }
    Ok(())
}
