//! One case: all peers in turn, again and again, the order reversed every other round.

use std::path::Path;

use anyhow::Result;

use crate::cli::Options;
use crate::counters::{Counters, count};
use crate::fio::Fio;
use tidemark_benches::case::Case;
use tidemark_benches::contender::{Contender, best_aio};
use tidemark_benches::cpu::Machine;
use tidemark_benches::load::Sample;
use tidemark_benches::statistics::{self, Median};
use tidemark_benches::storage::Files;

/// What a case gave. `samples` are in the order of the rounds, so that equal indices were neighbours.
pub struct Row {
    /// The case.
    pub case: Case,
    /// Which `aio=` qemu-storage-daemon was measured with; empty if it has none.
    pub aio: &'static str,
    /// tidemark's rounds.
    pub tidemark: Vec<Sample>,
    /// qemu-storage-daemon's.
    pub qsd: Vec<Sample>,
    /// fio's; none without a file.
    pub fio: Vec<Sample>,
    /// tidemark's system calls and instructions.
    pub tidemark_counters: Counters,
    /// qemu-storage-daemon's.
    pub qsd_counters: Counters,
}

impl Row {
    /// tidemark's IOPS over a peer's.
    pub fn iops_ratio(&self, peer: &[Sample]) -> Option<Median> {
        ratio(&self.tidemark, peer, |sample| sample.iops)
    }

    /// tidemark's CPU time per request over a peer's.
    pub fn cpu_ratio(&self, peer: &[Sample]) -> Option<Median> {
        ratio(&self.tidemark, peer, |sample| sample.cpu_us_per_io)
    }
}

fn ratio(ours: &[Sample], peer: &[Sample], value: impl Fn(&Sample) -> f64) -> Option<Median> {
    let of = |samples: &[Sample]| -> Vec<f64> { samples.iter().map(&value).collect() };
    statistics::ratio(&of(ours), &of(peer))
}

/// Runs a case.
pub fn run(case: &Case, files: &Files, options: &Options, machine: &Machine) -> Result<Row> {
    files.warm(case.storage)?;
    let start =
        |program: &Path, aio| Contender::start(program, files.blockdev(case.storage, aio), case, files.size(), machine);
    let aio = best_aio(case, |aio| start(&options.qsd, aio))?;
    let mut tidemark = start(&options.tidemark, "")?;
    let mut qsd = start(&options.qsd, aio)?;
    let fio = match files.path(case.storage) {
        Some(path) if case.queues == 1 => Some(Fio::new(case, path, machine)?),
        _ => None,
    };
    let mut row = Row {
        case: *case,
        aio,
        tidemark: Vec::new(),
        qsd: Vec::new(),
        fio: Vec::new(),
        tidemark_counters: count(&mut tidemark.load, &tidemark.daemon)?,
        qsd_counters: count(&mut qsd.load, &qsd.daemon)?,
    };
    for round in 0..options.pairs() {
        let duration = options.duration();
        let mut turns = [0, 1, 2];
        if round % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            match (turn, &fio) {
                (0, _) => row.tidemark.push(tidemark.load.measure(duration)?),
                (1, _) => row.qsd.push(qsd.load.measure(duration)?),
                (_, Some(fio)) => row.fio.push(fio.measure(duration)?),
                (_, None) => {}
            }
        }
    }
    Ok(row)
}
