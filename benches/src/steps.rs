//! Instructions in user space, counted one by one: a queue's thread is single-stepped by ptrace while it serves a load.
//!
//! Exact where hardware counters are closed to us. A system call is one instruction and what the kernel does in it
//! none. The thread is a thousand times slower meanwhile, so that every batch is as large as the depth allows.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::load::{Load, as_f64};

/// Instructions per request of the queue thread of process `pid`, which runs on `core`, under a load.
///
/// # Errors
/// If there is no such thread or it cannot be traced; if the load fails.
pub fn per_request(pid: u32, core: usize, load: &mut Load, duration: Duration) -> Result<f64> {
    let thread = find(pid)?;
    let (attached, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let tracer = scope.spawn(|| trace(thread, core, &attached, &over));
        while !attached.load(Ordering::Acquire) && !tracer.is_finished() {
            thread::yield_now();
        }
        let requests = load.run(duration);
        over.store(true, Ordering::Release);
        // The thread has to run once more to be let go.
        let woken = load.run(Duration::ZERO);
        let steps = tracer.join().map_err(|_| anyhow::anyhow!("the tracer panicked"))??;
        woken?;
        Ok(as_f64(steps) / as_f64(requests?.max(1)))
    })
}

/// Steps a thread until it is `over`.
fn trace(thread: Pid, core: usize, attached: &AtomicBool, over: &AtomicBool) -> Result<u64> {
    // Beside the guest, which polls, it would not get to run.
    let mut own = CpuSet::new();
    own.set(core);
    sched_setaffinity(None, &own).context("cannot pin the tracer")?;
    ptrace::seize(thread, ptrace::Options::empty()).context("cannot trace the daemon (ptrace)")?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    attached.store(true, Ordering::Release);
    let mut signal = None;
    let mut steps = 0;
    while !over.load(Ordering::Acquire) {
        ptrace::step(thread, signal)?;
        signal = match waitpid(thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => None,
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::PtraceEvent(..) => None,
            other => anyhow::bail!("the thread traced has ended: {other:?}"),
        };
        steps += 1;
    }
    ptrace::detach(thread, signal)?;
    Ok(steps)
}

fn find(pid: u32) -> Result<Pid> {
    for entry in fs::read_dir(format!("/proc/{pid}/task")).context("process has ended")? {
        let entry = entry?;
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with("queue-") {
            return Ok(Pid::from_raw(entry.file_name().to_string_lossy().parse()?));
        }
    }
    anyhow::bail!("process {pid} has no queue thread")
}
