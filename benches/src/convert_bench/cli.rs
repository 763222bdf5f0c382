//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures `tidemark convert` beside `qemu-img convert`.
#[derive(Debug, Clone, Parser)]
#[command(name = "convert-bench")]
pub struct Options {
    /// The program under test.
    #[arg(long, default_value = "target/release/tidemark")]
    pub tidemark: PathBuf,
    /// The program compared with, which also makes images and compares them.
    #[arg(long, default_value = "qemu-img")]
    pub qemu_img: PathBuf,
    /// Only cases whose name contains this, such as `cached` or `tmpfs/raw-qcow2`; may be repeated.
    #[arg(long)]
    pub only: Vec<String>,
    /// Interleaved rounds per case [default: 12, with --quick 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: Option<u32>,
    /// One minute instead of four; intervals are wide then.
    #[arg(long)]
    pub quick: bool,
    /// Directory on a disk file system for the benchmark's files.
    #[arg(long, default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// Size of the disks in MiB; there are three of them.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..65536))]
    pub size: u32,
    /// Where tables go; lines of cases that do not run stay.
    #[arg(long, default_value = "benches/results/convert")]
    pub results: PathBuf,
}

impl Options {
    /// Rounds per case.
    pub fn pairs(&self) -> u32 {
        self.pairs.unwrap_or(if self.quick { 3 } else { 12 })
    }

    /// Whether a case is to run.
    pub fn wants(&self, case: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| case.contains(part))
    }
}
