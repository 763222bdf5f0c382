//! An empty image, filled by small writes: each the first in its cluster, in random order, at a random place there.
//!
//! Every round has a new image and a new daemon. Writes only: nothing is flushed before the last has completed.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use tidemark_benches::case::Pattern;
use tidemark_benches::clocked::{Clocked, Operation};
use tidemark_benches::cpu::{CpuTime, Machine};
use tidemark_benches::daemon::{Daemon, Export};
use tidemark_benches::load::{Sample, as_f64};
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::ratio;
use tidemark_benches::storage::Storage;
use tidemark_benches::turns::order;

use crate::cli::Options;
use tidemark_benches::images::{Format, Images, blockdev};

const CLUSTER: u64 = 64 << 10;
const BLOCK: u64 = 4 << 10;
const DEPTH: u16 = 32;
const EXPORT: Export<'static> = Export { node: "d", queues: 1 };

/// A daemon, and what it gave, by round.
struct Series {
    peer: &'static str,
    aio: &'static str,
    iops: Vec<f64>,
    cpu: Vec<f64>,
}

impl Series {
    fn of(peer: &'static str, aio: &'static str) -> Series {
        Series { peer, aio, iops: Vec::new(), cpu: Vec::new() }
    }
}

/// Runs a case.
pub fn run(storage: Storage, _: Pattern, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let images = options.images(storage)?;
    let mut rng = Rng::with_seed(11);
    let aio = best_aio(storage, &images, &mut rng, options, machine)?;
    report.note(&format!("qsd with aio={aio}"));
    let mut all = [Series::of("tidemark", ""), Series::of("qsd", aio)];
    for round in 0..options.pairs() {
        for index in order(all.len(), round) {
            let Some(series) = all.get_mut(index) else { continue };
            print_progress(round, options.pairs(), &format!("allocate {}", series.peer));
            let sample = fill(series.peer, series.aio, &images, &mut rng, options, machine)?;
            series.iops.push(sample.iops);
            series.cpu.push(sample.cpu_us_per_io);
        }
    }
    print_progress(options.pairs(), options.pairs(), "");
    for series in &all {
        report.samples(series.peer, "qcow2", "writes/s", &series.iops);
        report.samples(series.peer, "qcow2", "CPU us/write", &series.cpu);
    }
    let [ours, qsd] = &all;
    report.point("writes/s: qcow2 / qsd's qcow2", ratio(&ours.iops, &qsd.iops), Target::AtLeast(2.0));
    report.point("CPU per write: qcow2 / qsd's qcow2", ratio(&ours.cpu, &qsd.cpu), Target::Shown);
    Ok(())
}

/// The `aio=` with which qemu-storage-daemon is faster here.
fn best_aio(
    storage: Storage,
    images: &Images,
    rng: &mut Rng,
    options: &Options,
    machine: &Machine,
) -> Result<&'static str> {
    let mut best = ("", 0.0);
    for aio in storage.aio_choices() {
        let iops = fill("qsd", aio, images, rng, options, machine)?.iops;
        if iops > best.1 {
            best = (aio, iops);
        }
    }
    Ok(best.0)
}

/// Writes once to each cluster of a new image.
fn fill(peer: &str, aio: &str, images: &Images, rng: &mut Rng, options: &Options, machine: &Machine) -> Result<Sample> {
    let path = images.make_empty(0)?;
    let program = if peer == "qsd" { &options.qsd } else { &options.tidemark };
    let daemon = Daemon::start(program, &[blockdev(Format::Qcow2, &path, aio)], &[EXPORT], machine)?;
    let mut guest = Clocked::new(vec![daemon.connect(EXPORT)?], DEPTH, u32::try_from(BLOCK)?)?;
    let mut offsets: Vec<u64> = (0..images.size() / CLUSTER).map(|index| index * CLUSTER).collect();
    rng.shuffle(&mut offsets);
    let mut offsets = offsets.into_iter().map(|cluster| cluster + rng.u64(..CLUSTER / BLOCK) * BLOCK);
    let before = CpuTime::of(daemon.pid())?;
    let plan = |_| offsets.next().map(|offset| Operation { offset, is_write: true });
    let timed = guest.run(Duration::ZERO, plan, |_| Ok(()))?;
    let cpu_ns = CpuTime::of(daemon.pid())?.since(&before);
    let writes = as_f64(timed.writes_ns().len().max(1) as u64);
    Ok(Sample { iops: writes / timed.elapsed.as_secs_f64(), cpu_us_per_io: as_f64(cpu_ns) / writes / 1000.0 })
}
