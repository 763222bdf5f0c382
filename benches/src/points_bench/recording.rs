//! What recording bitmaps cost: the same daemon, the same guest, none, one and three bitmaps in turn.
//!
//! 4 KiB random writes at depth 32 on one queue. On disks of 1 GiB nearly every bit is set after a moment, so that marks
//! find them set; on the one of 1 TiB nearly none is, and the bitmap is larger than a cache.

use anyhow::Result;
use serde_json::{Value, json};
use tidemark_benches::case::{Case, Pattern};
use tidemark_benches::cpu::Machine;
use tidemark_benches::daemon::{Daemon, Export};
use tidemark_benches::load::Load;
use tidemark_benches::monitor::Monitor;
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::{Median, ratio};
use tidemark_benches::steps;
use tidemark_benches::storage::{Files, Storage};
use tidemark_benches::turns::order;

use crate::cli::Options;

/// How many bitmaps record.
const STATES: [(&str, usize); 3] = [("no bitmap", 0), ("1 bitmap", 1), ("3 bitmaps", 3)];
/// By how much instructions may grow and IOPS fall with one bitmap and with three.
const TOLERATED: [f64; 3] = [0.0, 0.02, 0.04];
const EXPORT: Export<'static> = Export { node: "d", queues: 1 };

/// What a state gave, by round.
#[derive(Default)]
struct Series {
    iops: Vec<f64>,
    cpu: Vec<f64>,
    instructions: Vec<f64>,
}

/// A daemon, its guest, and how many bitmaps there are.
struct Bench {
    daemon: Daemon,
    monitor: Monitor,
    load: Load,
    bitmaps: usize,
}

impl Bench {
    fn start(storage: Storage, blockdev: String, size: u64, options: &Options, machine: &Machine) -> Result<Bench> {
        let daemon = Daemon::start(&options.tidemark, &[blockdev], &[EXPORT], machine)?;
        let case = Case { storage, pattern: Pattern::RandWrite, depth: 32, queues: 1 };
        let load = Load::new(&case, size, daemon.connect(EXPORT)?)?;
        let monitor = daemon.monitor()?;
        Ok(Bench { daemon, monitor, load, bitmaps: 0 })
    }

    /// Replaces all bitmaps by `count` new ones.
    fn record(&mut self, count: usize) -> Result<()> {
        let named = |index: usize| -> Value { json!({ "node": "d", "name": format!("b{index}") }) };
        for index in 0..self.bitmaps {
            self.monitor.execute("block-dirty-bitmap-remove", named(index))?;
        }
        for index in 0..count {
            self.monitor.execute("block-dirty-bitmap-add", named(index))?;
        }
        self.bitmaps = count;
        Ok(())
    }
}

/// Runs a case.
pub fn run(name: &str, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let terabyte = format!("driver=null-co,node-name=d,size={}", 1u64 << 40);
    let files = Files::prepare(&options.dir, if name.ends_with("cached") { options.size } else { 1 })?;
    let (storage, blockdev, size) = match name {
        "recording/cached" => (Storage::Cached, files.blockdev(Storage::Cached, ""), files.size()),
        "recording/null-co-1t" => (Storage::Null, terabyte, 1 << 40),
        _ => (Storage::Null, format!("driver=null-co,node-name=d,size={}", 1u64 << 30), 1 << 30),
    };
    let mut bench = Bench::start(storage, blockdev, size, options, machine)?;
    let mut series: [Series; 3] = Default::default();
    for round in 0..options.pairs() {
        print_progress(round, options.pairs(), name);
        for index in order(STATES.len(), round) {
            let (Some((_, bitmaps)), Some(series)) = (STATES.get(index), series.get_mut(index)) else { continue };
            bench.record(*bitmaps)?;
            let sample = bench.load.measure(options.duration())?;
            series.iops.push(sample.iops);
            series.cpu.push(sample.cpu_us_per_io);
            let (pid, core) = (bench.daemon.pid(), machine.peer_core);
            series.instructions.push(steps::per_request(pid, core, &mut bench.load, options.duration())?);
        }
    }
    print_progress(options.pairs(), options.pairs(), name);
    show(&series, report);
    Ok(())
}

fn show(series: &[Series; 3], report: &mut Report) {
    for ((state, _), series) in STATES.iter().zip(series) {
        report.samples("tidemark", state, "IOPS", &series.iops);
        report.samples("tidemark", state, "CPU us/IO", &series.cpu);
        report.samples("tidemark", state, "user instructions/IO", &series.instructions);
    }
    let [none, ..] = series;
    for (((state, _), series), tolerated) in STATES.iter().zip(series).zip(TOLERATED).skip(1) {
        let mut point = |what: &str, median: Option<Median>, target| {
            report.point(&format!("{what}: {state} / no bitmap"), median, target);
        };
        point("IOPS", ratio(&series.iops, &none.iops), Target::AtLeast(1.0 - tolerated));
        point("CPU per I/O", ratio(&series.cpu, &none.cpu), Target::Shown);
        let instructions = ratio(&series.instructions, &none.instructions);
        point("user instructions per I/O", instructions, Target::AtMost(1.0 + tolerated));
    }
}
