//! System calls and instructions per request, counted from outside in a run of its own.
//!
//! `perf stat` counts both where the machine lets it; where tracepoints are closed to us, `strace -c` counts system
//! calls, slowing the daemon down, which makes batches larger and the number smaller: the table says which it was.
//! Workers of io_uring make no system calls, so what is counted is the daemon's own.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use tidemark_benches::daemon::Daemon;
use tidemark_benches::load::{Load, as_f64};

/// Time for a tracer to attach.
const ATTACH: Duration = Duration::from_millis(300);

/// What was counted; `None` where the machine does not support it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// System calls per request.
    pub syscalls_per_io: Option<f64>,
    /// Instructions per request, user and kernel.
    pub instructions_per_io: Option<f64>,
    /// Counted by strace, which disturbs.
    pub by_strace: bool,
}

/// Counts during a short load.
pub fn count(load: &mut Load, daemon: &Daemon) -> Result<Counters> {
    let perf = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-e", "instructions", "-p"];
    let (ios, text) = under(&perf, "-o", load, daemon)?;
    let perf_count = |event: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.contains(event))?;
        Some(line.split(',').next()?.parse::<f64>().ok()? / ios)
    };
    let instructions_per_io = perf_count("instructions");
    if let Some(syscalls) = perf_count("raw_syscalls:sys_enter") {
        return Ok(Counters { syscalls_per_io: Some(syscalls), instructions_per_io, by_strace: false });
    }
    let (ios, text) = under(&["strace", "-c", "-f", "-p"], "-o", load, daemon)?;
    let total = text.lines().find(|line| line.trim_end().ends_with("total"));
    let calls = total.and_then(|line| line.split_whitespace().nth(3)).and_then(|field| field.parse::<f64>().ok());
    Ok(Counters { syscalls_per_io: calls.map(|calls| calls / ios), instructions_per_io, by_strace: true })
}

/// Runs a load with a tracer attached; returns the number of requests and what the tracer wrote.
fn under(tracer: &[&str], out: &str, load: &mut Load, daemon: &Daemon) -> Result<(f64, String)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("counts");
    let Some((program, arguments)) = tracer.split_first() else { return Ok((1.0, String::new())) };
    let spawned = Command::new(program)
        .args(arguments)
        .arg(daemon.pid().to_string())
        .arg(out)
        .arg(&path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // Not installed is the same as not supported.
    let Ok(mut child) = spawned else { return Ok((1.0, String::new())) };
    std::thread::sleep(ATTACH);
    let ios = load.run(Duration::from_millis(500))?;
    interrupt(&mut child)?;
    Ok((as_f64(ios.max(1)), fs::read_to_string(&path).unwrap_or_default()))
}

fn interrupt(child: &mut Child) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
    if child.try_wait()?.is_none() {
        kill_process(pid, Signal::INT).context("cannot stop the tracer")?;
    }
    child.wait()?;
    Ok(())
}
