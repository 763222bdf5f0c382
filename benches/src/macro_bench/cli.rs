//! The command line. Durations are per measurement, not per case.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Compares tidemark with qemu-storage-daemon and with fio's io_uring on the same storage.
#[derive(Debug, Clone, Parser)]
#[command(name = "macro-bench")]
pub struct Options {
    /// The program under test.
    #[arg(long, default_value = "target/release/tidemark")]
    pub tidemark: PathBuf,
    /// The program compared with.
    #[arg(long, default_value = "qemu-storage-daemon")]
    pub qsd: PathBuf,
    /// Only cases whose name contains this, such as `null-co` or `cached/randread-4k/d32`; may be repeated.
    #[arg(long)]
    pub only: Vec<String>,
    /// Interleaved rounds per case [default: 12, with --quick 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: Option<u32>,
    /// Seconds per measurement [default: 1, with --quick 0.3].
    #[arg(long)]
    seconds: Option<f64>,
    /// A few minutes instead of half an hour; intervals are wide then.
    #[arg(long)]
    pub quick: bool,
    /// Directory on a disk file system for the benchmark's files.
    #[arg(long, default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// Size of the files in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..65536))]
    pub size: u32,
    /// Where tables and plot go.
    #[arg(long, default_value = "benches/results")]
    pub results: PathBuf,
    /// Seconds a connected idle guest is watched.
    #[arg(long, default_value_t = 5.0)]
    pub idle_seconds: f64,
}

impl Options {
    /// Fills in what depends on `--quick`.
    #[must_use]
    pub fn with_quick_defaults(mut self) -> Options {
        let (pairs, seconds) = if self.quick { (3, 0.3) } else { (12, 1.0) };
        self.pairs.get_or_insert(pairs);
        self.seconds.get_or_insert(seconds);
        self
    }

    /// Rounds per case.
    pub fn pairs(&self) -> u32 {
        self.pairs.unwrap_or(12)
    }

    /// Time of one measurement.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(1.0).clamp(0.05, 60.0))
    }
}
