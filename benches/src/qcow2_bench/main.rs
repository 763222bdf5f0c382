//! `make bench`: what qcow2 costs: over a raw file, beside qemu-storage-daemon, with several queues, while it allocates.
//!
//! Everything compared takes turns within one run; what is reported is the median over the rounds of the ratios of
//! neighbouring measurements, with its 95 % interval, beside the target it has.

mod allocating;
mod cli;
mod mapped;
mod queues;
mod tracked;

use anyhow::{Context, Result};
use clap::Parser;
use tidemark_benches::case::Pattern;
use tidemark_benches::cpu::{self, Machine};
use tidemark_benches::report::{self, Report};
use tidemark_benches::storage::Storage;

use crate::cli::Options;

/// What is measured on a storage.
type Run = fn(Storage, Pattern, &Options, &Machine, &mut Report) -> Result<()>;

/// In the order of the tables.
const CASES: [(&str, Pattern, Run); 6] = [
    ("read", Pattern::RandRead, mapped::run),
    ("overwrite", Pattern::RandWrite, mapped::run),
    ("queues/read", Pattern::RandRead, queues::run),
    ("queues/overwrite", Pattern::RandWrite, queues::run),
    ("allocate", Pattern::RandWrite, allocating::run),
    ("tracked", Pattern::RandWrite, tracked::run),
];

fn main() -> Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.results)
        .with_context(|| format!("cannot create {}", options.results.display()))?;
    let machine = cpu::split_cores()?;
    report::print_method(&options.tidemark, &options.qsd, options.pairs(), report::GUEST, &machine);
    let mut report = Report::default();
    let mut ran = false;
    for storage in [Storage::Cached, Storage::Tmpfs] {
        for (what, pattern, run) in CASES {
            let name = format!("{storage}/{what}");
            if !options.wants(&name) {
                continue;
            }
            ran = true;
            report.begin(&name);
            run(storage, pattern, &options, &machine, &mut report).with_context(|| format!("case {name}"))?;
            report.write(&options.results)?;
        }
    }
    anyhow::ensure!(ran, "no case matches --only {}", options.only.join(" "));
    println!("written: {}/points.csv, samples.csv", options.results.display());
    Ok(())
}
