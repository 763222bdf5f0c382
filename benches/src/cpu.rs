//! Who runs on which core, and how much of it a process used.
//!
//! The guest polls on one core and the program measured has another to itself, worker threads of io_uring included
//! (they inherit the affinity). On a machine with one core nothing could be measured.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::load::as_f64;

/// The two cores of a run.
#[derive(Debug)]
pub struct Machine {
    /// The guest's.
    pub guest_core: usize,
    /// The program's.
    pub peer_core: usize,
}

/// Takes the first allowed core for this process and names the next for the peers.
pub fn split_cores() -> Result<Machine> {
    let allowed = sched_getaffinity(None).context("cannot read the allowed cores")?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (Some(guest_core), Some(peer_core)) = (cores.next(), cores.next()) else {
        anyhow::bail!("two cores are needed: one for the guest that polls, one for the program measured");
    };
    let mut own = CpuSet::new();
    own.set(guest_core);
    sched_setaffinity(None, &own).context("cannot pin the guest")?;
    Ok(Machine { guest_core, peer_core })
}

/// CPU time of a process at one moment.
#[derive(Debug)]
pub struct CpuTime {
    threads_ns: HashMap<String, u64>,
    ticks: u64,
}

impl CpuTime {
    /// Reads it from `/proc`: nanoseconds per thread from `schedstat`, ticks of the whole process from `stat`.
    pub fn of(pid: u32) -> Result<CpuTime> {
        let mut threads_ns = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).context("process has ended")? {
            let entry = entry?;
            // A thread may end between listing and reading.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let on_cpu = text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0);
            threads_ns.insert(entry.file_name().to_string_lossy().into_owned(), on_cpu);
        }
        Ok(CpuTime { threads_ns, ticks: ticks(pid)? })
    }

    /// Nanoseconds used since `earlier`. If a thread ended in between, what it used is known in ticks only.
    pub fn since(&self, earlier: &CpuTime) -> u64 {
        let ended = earlier.threads_ns.keys().any(|thread| !self.threads_ns.contains_key(thread));
        if ended {
            return self.ticks_since(earlier) * (1_000_000_000 / rustix::param::clock_ticks_per_second());
        }
        let used = |(thread, now): (&String, &u64)| now - earlier.threads_ns.get(thread).unwrap_or(&0).min(now);
        self.threads_ns.iter().map(used).sum()
    }

    /// Clock ticks used since `earlier`.
    pub fn ticks_since(&self, earlier: &CpuTime) -> u64 {
        self.ticks.saturating_sub(earlier.ticks)
    }
}

/// Microseconds of CPU of all children waited for, in the resolution of a clock tick.
pub fn children_cpu_us() -> Result<f64> {
    let ticks = stat_fields("self", 13)?;
    Ok(as_f64(ticks) * 1e6 / as_f64(rustix::param::clock_ticks_per_second()))
}

fn ticks(pid: u32) -> Result<u64> {
    stat_fields(&pid.to_string(), 11)
}

/// The sum of two neighbouring fields of `/proc/PROCESS/stat`, `skip` fields after the name: user and system time at
/// 11, those of children at 13 (proc_pid_stat(5)).
fn stat_fields(process: &str, skip: usize) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may contain anything: count from its end.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(fields.split_whitespace().skip(skip).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
}
