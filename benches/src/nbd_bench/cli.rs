//! The command line. Durations are per measurement, not per case.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use tidemark_benches::images::Images;
use tidemark_benches::storage::Storage;

/// Measures the NBD server beside that of qemu-storage-daemon.
#[derive(Debug, Clone, Parser)]
#[command(name = "nbd-bench")]
pub struct Options {
    /// The program under test.
    #[arg(long, default_value = "target/release/tidemark")]
    pub tidemark: PathBuf,
    /// The program compared with.
    #[arg(long, default_value = "qemu-storage-daemon")]
    pub qsd: PathBuf,
    /// The program that makes images.
    #[arg(long, default_value = "qemu-img")]
    pub qemu_img: PathBuf,
    /// Only cases whose name contains this, such as `copy` or `tmpfs/raw/randread`; may be repeated.
    #[arg(long)]
    pub only: Vec<String>,
    /// Interleaved rounds per case [default: 12, with --quick 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: Option<u32>,
    /// Seconds per measurement that has no natural end [default: 0.5, with --quick 0.3].
    #[arg(long)]
    seconds: Option<f64>,
    /// Three minutes instead of twenty; intervals are wide then.
    #[arg(long)]
    pub quick: bool,
    /// Keep the cores from halting between requests; matters with one request in flight on virtual machines.
    #[arg(long)]
    pub awake: bool,
    /// Directory on a disk file system for the benchmark's files.
    #[arg(long, default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// Size of the disks in MiB; of an image there are two.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..65536))]
    pub size: u32,
    /// Where tables go; lines of cases that do not run stay.
    #[arg(long, default_value = "benches/results/nbd")]
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

    /// A place for disks on a storage.
    pub fn images(&self, storage: Storage) -> Result<Images> {
        Images::new(storage, &self.dir, self.size, &self.qemu_img)
    }

    /// Whether a case is to run.
    pub fn wants(&self, case: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| case.contains(part))
    }
}
