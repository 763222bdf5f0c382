//! One conversion by both programs in turn, each time to a file that is not there, from a source in the page cache.
//!
//! What was written is removed before it gets to the disk: programs are measured, and not the disk. The first copies of
//! both are compared with the source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tidemark_benches::cpu::children_cpu_us;
use tidemark_benches::images::Format;
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::ratio;
use tidemark_benches::storage::{Storage, directory, fill, read_anew, read_through};
use tidemark_benches::turns::order;

use crate::cli::Options;

/// The programs, ours first.
const PEERS: [&str; 2] = ["tidemark", "qemu-img"];

/// Disks of one content on one storage.
pub struct Disks {
    dir: TempDir,
}

impl Disks {
    /// Makes them, full of data that does not compress.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn prepare(storage: Storage, options: &Options) -> Result<Disks> {
        let dir = directory(storage, &options.dir)?;
        let disks = Disks { dir };
        let raw = disks.source(Format::Raw);
        fill(&raw, options.size)?;
        read_anew(&raw)?;
        let mut convert = Command::new(&options.qemu_img);
        run(convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(disks.source(Format::Qcow2)))?;
        read_anew(&disks.source(Format::Qcow2))?;
        Ok(disks)
    }

    fn source(&self, format: Format) -> PathBuf {
        self.dir.path().join(format!("source.{}", format.name()))
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }
}

/// What one program needed, by round.
#[derive(Default)]
struct Series {
    seconds: Vec<f64>,
    cpu_ms: Vec<f64>,
}

/// Runs a case.
///
/// # Errors
/// If a program fails, or what it made is not what it was made from.
pub fn run_case(disks: &Disks, [from, to]: [Format; 2], options: &Options, report: &mut Report) -> Result<()> {
    let mut series = [Series::default(), Series::default()];
    for round in 0..options.pairs() {
        for index in order(PEERS.len(), round) {
            let (Some(peer), Some(series)) = (PEERS.get(index), series.get_mut(index)) else { continue };
            print_progress(round, options.pairs(), peer);
            read_through(&disks.source(from))?;
            let (before, start) = (children_cpu_us()?, Instant::now());
            run(command(index, [from, to], disks, options).stdout(Stdio::null()))?;
            series.seconds.push(start.elapsed().as_secs_f64());
            series.cpu_ms.push((children_cpu_us()? - before) / 1e3);
            if round == 0 {
                compare(disks, [from, to], options).with_context(|| format!("what {peer} has made"))?;
            }
            fs::remove_file(disks.target())?;
        }
    }
    print_progress(options.pairs(), options.pairs(), "");
    for (peer, series) in PEERS.iter().zip(&series) {
        report.samples(peer, "convert", "s", &series.seconds);
        report.samples(peer, "convert", "CPU ms", &series.cpu_ms);
    }
    let [ours, theirs] = &series;
    report.point("s: tidemark / qemu-img", ratio(&ours.seconds, &theirs.seconds), Target::AtMost(1.0));
    report.point("CPU ms: tidemark / qemu-img", ratio(&ours.cpu_ms, &theirs.cpu_ms), Target::Shown);
    Ok(())
}

fn command(index: usize, [from, to]: [Format; 2], disks: &Disks, options: &Options) -> Command {
    let program = if index == 0 { &options.tidemark } else { &options.qemu_img };
    let mut command = Command::new(program);
    command.args(["convert", "-W", "-m", "16", "-f", from.name(), "-O", to.name()]);
    command.arg(disks.source(from)).arg(disks.target());
    command
}

fn compare(disks: &Disks, [from, to]: [Format; 2], options: &Options) -> Result<()> {
    let mut compare = Command::new(&options.qemu_img);
    compare.args(["compare", "-q", "-f", from.name(), "-F", to.name()]);
    run(compare.arg(disks.source(from)).arg(disks.target()))
}

fn run(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(status.success(), "{program} failed: {status}");
    Ok(())
}
