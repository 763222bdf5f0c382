//! Clients that others wrote: nbdcopy, which reads a disk from front to back, and fio, which reads and writes 4 KiB at
//! random.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tidemark_benches::cpu::CpuTime;
use tidemark_benches::load::as_f64;

use crate::server::Server;

const GIB: f64 = (1u64 << 30) as f64;

/// A client.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// `nbdcopy URI null:`
    Nbdcopy {
        /// How many it opens.
        connections: u32,
    },
    /// `fio --ioengine=nbd`
    Fio {
        /// Whether it writes.
        writes: bool,
        /// Requests in flight.
        depth: u32,
    },
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// MB or requests per second.
    pub rate: f64,
    /// The daemon's CPU, per GiB in milliseconds or per request in microseconds.
    pub cpu: f64,
}

impl Client {
    /// Whether it changes the disk.
    pub fn writes(self) -> bool {
        matches!(self, Client::Fio { writes: true, .. })
    }

    /// What a rate counts.
    pub fn rate_unit(self) -> &'static str {
        match self {
            Client::Nbdcopy { .. } => "MB/s",
            Client::Fio { .. } => "IOPS",
        }
    }

    /// What CPU is given in.
    pub fn cpu_unit(self) -> &'static str {
        match self {
            Client::Nbdcopy { .. } => "CPU ms/GiB",
            Client::Fio { .. } => "CPU us/IO",
        }
    }

    /// Runs it on a disk of `size` bytes; for `duration` if it does not end of itself.
    ///
    /// # Errors
    /// If there is no such program, or it fails.
    pub fn run(self, server: &Server, size: u64, duration: Duration) -> Result<Sample> {
        let before = CpuTime::of(server.daemon.pid())?;
        let cpu_ns = || Ok::<_, anyhow::Error>(as_f64(CpuTime::of(server.daemon.pid())?.since(&before)));
        match self {
            Client::Nbdcopy { connections } => {
                let start = Instant::now();
                nbdcopy(server.uri(), connections)?;
                let (elapsed, cpu_ns) = (start.elapsed().as_secs_f64(), cpu_ns()?);
                Ok(Sample { rate: as_f64(size) / 1e6 / elapsed, cpu: cpu_ns / 1e6 / (as_f64(size) / GIB) })
            }
            Client::Fio { writes, depth } => {
                let (iops, count) = fio(server.uri(), writes, depth, duration)?;
                Ok(Sample { rate: iops, cpu: cpu_ns()? / 1e3 / as_f64(count.max(1)) })
            }
        }
    }
}

fn nbdcopy(uri: &str, connections: u32) -> Result<()> {
    let mut command = Command::new("nbdcopy");
    command.arg(format!("--connections={connections}")).args([uri, "null:"]);
    output(&mut command, "nbdcopy (Debian package libnbd-bin)").map(drop)
}

/// Requests per second, and how many there were.
fn fio(uri: &str, writes: bool, depth: u32, duration: Duration) -> Result<(f64, u64)> {
    let (pattern, kind) = if writes { ("randwrite", "write") } else { ("randread", "read") };
    let mut command = Command::new("fio");
    command.args(["--name=nbd", "--ioengine=nbd", "--bs=4k", "--norandommap", "--time_based", "--output-format=json"]);
    command.arg(format!("--uri={uri}")).arg(format!("--rw={pattern}")).arg(format!("--iodepth={depth}"));
    command.arg(format!("--runtime={}ms", duration.as_millis()));
    let text = output(&mut command, "fio")?;
    // Before it, the engine says that it is connected.
    let begin = text.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let report: Value = serde_json::from_slice(text.get(begin..).unwrap_or_default()).context("fio's report")?;
    let of = |field: &str| report.pointer(&format!("/jobs/0/{kind}/{field}"));
    let iops = of("iops").and_then(Value::as_f64).context("fio reports no rate")?;
    let count = of("total_ios").and_then(Value::as_u64).context("fio reports no requests")?;
    Ok((iops, count))
}

/// What a program prints, if it does well.
///
/// # Errors
/// What it prints otherwise.
pub fn output(command: &mut Command, program: &str) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} failed: {}\n{text}", output.status);
    Ok(output.stdout)
}
