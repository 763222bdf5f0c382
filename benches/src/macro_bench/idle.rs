//! What a daemon costs while its guest does nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::cli::Options;
use tidemark_benches::case::{Case, Pattern};
use tidemark_benches::cpu::{CpuTime, Machine};
use tidemark_benches::daemon::{Daemon, Export};
use tidemark_benches::load::Load;
use tidemark_benches::storage::{Files, Storage};

/// Time for adaptive polling to give up after the last request.
const SETTLE: Duration = Duration::from_millis(500);

/// CPU time of one idle daemon.
pub struct Idle {
    /// Which one.
    pub peer: &'static str,
    /// Clock ticks used while watched.
    pub ticks: u64,
    /// Nanoseconds used while watched.
    pub ns: u64,
    /// Seconds watched.
    pub seconds: f64,
}

/// Watches both daemons, each after some load, with four queues connected and nothing in flight.
pub fn check(files: &Files, options: &Options, machine: &Machine) -> Result<Vec<Idle>> {
    let peers = [("tidemark", &options.tidemark), ("qsd", &options.qsd)];
    peers.into_iter().map(|(peer, program)| watch(peer, program, files, options, machine)).collect()
}

fn watch(peer: &'static str, program: &Path, files: &Files, options: &Options, machine: &Machine) -> Result<Idle> {
    let case = Case { storage: Storage::Null, pattern: Pattern::RandRead, depth: 32, queues: 4 };
    let export = Export { node: "d", queues: case.queues };
    let daemon = Daemon::start(program, &[files.blockdev(case.storage, "")], &[export], machine)?;
    let mut load = Load::new(&case, files.size(), daemon.connect(export)?)?;
    load.run(Duration::from_millis(100))?;
    std::thread::sleep(SETTLE);
    let before = CpuTime::of(daemon.pid())?;
    std::thread::sleep(Duration::from_secs_f64(options.idle_seconds));
    let after = CpuTime::of(daemon.pid())?;
    Ok(Idle { peer, ticks: after.ticks_since(&before), ns: after.since(&before), seconds: options.idle_seconds })
}
