//! The command line. Durations are per measurement, not per case.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Measures what bitmaps, copy-before-write, transactions and backups cost, beside qemu-storage-daemon.
#[derive(Debug, Clone, Parser)]
#[command(name = "points-bench")]
pub struct Options {
    /// The program under test.
    #[arg(long, default_value = "target/release/tidemark")]
    pub tidemark: PathBuf,
    /// The program compared with.
    #[arg(long, default_value = "qemu-storage-daemon")]
    pub qsd: PathBuf,
    /// Only cases whose name contains this, such as `recording` or `full-backup/disk`; may be repeated.
    #[arg(long)]
    pub only: Vec<String>,
    /// Interleaved rounds per case [default: 12, with --quick 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: Option<u32>,
    /// Seconds per measurement that has no natural end [default: 0.5, with --quick 0.3].
    #[arg(long)]
    seconds: Option<f64>,
    /// A few minutes instead of a quarter of an hour; intervals are wide then.
    #[arg(long)]
    pub quick: bool,
    /// Directory on a disk file system for the benchmark's files.
    #[arg(long, default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// Size of the disks in MiB; full backups copy twice as much.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..65536))]
    pub size: u32,
    /// Requests in flight on each queue, of transactions under load; there are 16 queues.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub depth: u16,
    /// Where tables go; lines of cases that do not run stay.
    #[arg(long, default_value = "benches/results/points")]
    pub results: PathBuf,
}

impl Options {
    /// Rounds per case.
    pub fn pairs(&self) -> u32 {
        self.pairs.unwrap_or(if self.quick { 3 } else { 12 })
    }

    /// Time of one measurement.
    pub fn duration(&self) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.quick { 0.3 } else { 0.5 });
        Duration::from_secs_f64(seconds.clamp(0.05, 60.0))
    }

    /// Whether a case is to run.
    pub fn wants(&self, case: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| case.contains(part))
    }
}
