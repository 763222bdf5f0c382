//! fio as the yardstick: io_uring on the same file without a guest in between.
//!
//! One job on the peers' core, registered files, no fixed buffers, page cache left alone, else fio's defaults. Its CPU
//! time is that of the whole process with its io_uring workers, in clock ticks, less what starting fio costs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use tidemark_benches::case::Case;
use tidemark_benches::cpu::{Machine, children_cpu_us};
use tidemark_benches::load::Sample;
use tidemark_benches::storage::Storage;

/// Fields of fio's terse output, version 3, counted from 0: reads start at 5, writes at 46.
const READ_FIELDS: usize = 5;
const WRITE_FIELDS: usize = 46;

/// fio on one file in one way.
pub struct Fio {
    command: Vec<String>,
    writes: bool,
    block_size: u32,
    startup_cpu_us: f64,
}

impl Fio {
    /// Prepares the job and measures what an almost empty run costs.
    pub fn new(case: &Case, path: &Path, machine: &Machine) -> Result<Fio> {
        let direct = u8::from(case.storage == Storage::Direct);
        let command = format!(
            "taskset -c {} fio --minimal --terse-version=3 --name=fio --ioengine=io_uring --registerfiles=1 \
             --fixedbufs=0 --invalidate=0 --numjobs=1 --direct={direct} --rw={} --bs={} --iodepth={} --filename={}",
            machine.peer_core,
            case.pattern.fio_name(),
            case.pattern.block_size(),
            case.depth,
            path.display()
        );
        let command = command.split_whitespace().map(str::to_owned).collect();
        let (writes, block_size) = (case.pattern.writes(), case.pattern.block_size());
        let mut fio = Fio { command, writes, block_size, startup_cpu_us: 0.0 };
        fio.startup_cpu_us = fio.run(&["--number_ios=1".to_owned()])?.1;
        Ok(fio)
    }

    /// Runs for `duration`.
    pub fn measure(&self, duration: Duration) -> Result<Sample> {
        let runtime = format!("--runtime={}ms", duration.as_millis());
        let (fields, cpu_us) = self.run(&["--time_based".to_owned(), runtime])?;
        let field = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
        let first = if self.writes { WRITE_FIELDS } else { READ_FIELDS };
        let (kib, iops) = field(first).zip(field(first + 2)).context("fio's output has too few fields")?;
        let ios = kib * 1024.0 / f64::from(self.block_size);
        anyhow::ensure!(ios > 0.0, "fio did nothing: {}", fields.join(";"));
        Ok(Sample { iops, cpu_us_per_io: (cpu_us - self.startup_cpu_us).max(0.0) / ios })
    }

    fn run(&self, more: &[String]) -> Result<(Vec<String>, f64)> {
        let (program, arguments) = self.command.split_first().context("empty command")?;
        let before = children_cpu_us()?;
        let output = Command::new(program)
            .args(arguments)
            .args(more)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run fio (Debian package fio)")?;
        let cpu_us = children_cpu_us()? - before;
        anyhow::ensure!(output.status.success(), "fio failed: {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.starts_with("3;")).context("fio printed no terse line")?;
        Ok((line.split(';').map(str::to_owned).collect(), cpu_us))
    }
}
