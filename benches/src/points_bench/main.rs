//! `make bench`: what points in time cost: bitmaps, writes that copy first, transactions, full backups.
//!
//! Everything compared takes turns within one run; what is reported is the median over the rounds of the ratios of
//! neighbouring measurements, with its 95 % interval, beside the target it has.

mod chain_jobs;
mod cli;
mod fleecing;
mod full_backup;
mod overlays;
mod peer;
mod recording;
mod script;
mod stalls;
mod transaction;

use anyhow::{Context, Result};
use clap::Parser;
use tidemark_benches::cpu::{self, Machine};
use tidemark_benches::report::{self, Report};

use crate::cli::Options;

/// A case: its name and what runs it.
type Case = (&'static str, fn(&str, &Options, &Machine, &mut Report) -> Result<()>);

const CASES: [Case; 13] = [
    ("recording/null-co", recording::run),
    ("recording/null-co-1t", recording::run),
    ("recording/cached", recording::run),
    ("fleecing/first-write", fleecing::first_writes),
    ("fleecing/sequential", fleecing::sequential),
    ("transaction/bitmaps", transaction::run),
    ("transaction/backups", transaction::run),
    ("transaction/snapshots", transaction::run),
    ("jobs/stream", chain_jobs::run),
    ("jobs/commit", chain_jobs::run),
    ("jobs/mirror", chain_jobs::run),
    ("full-backup/tmpfs", full_backup::run),
    ("full-backup/disk", full_backup::run),
];

fn main() -> Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.results)
        .with_context(|| format!("cannot create {}", options.results.display()))?;
    let machine = cpu::split_cores()?;
    report::print_method(&options.tidemark, &options.qsd, options.pairs(), report::GUEST, &machine);
    let cases: Vec<&Case> = CASES.iter().filter(|(name, _)| options.wants(name)).collect();
    anyhow::ensure!(!cases.is_empty(), "no case matches --only {}", options.only.join(" "));
    let mut report = Report::default();
    for (name, run) in cases {
        report.begin(name);
        run(name, &options, &machine, &mut report).with_context(|| format!("case {name}"))?;
        report.write(&options.results)?;
    }
    println!("written: {}/points.csv, samples.csv", options.results.display());
    Ok(())
}
