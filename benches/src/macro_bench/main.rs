//! `make bench`: whole daemons side by side, under the load of a polling guest.
//!
//! Peers take turns on the same storage within one run, so that what the machine does meanwhile hits them alike;
//! what is reported is the median of the ratios of neighbouring measurements with its 95 % interval. Daemons are
//! reached through their command line and a vhost-user socket only; nothing here knows how one is built.

mod cases;
mod cli;
mod counters;
mod fio;
mod idle;
mod measure;
mod plot;
mod report;

use anyhow::{Context, Result};
use clap::Parser;
use tidemark_benches::{cpu, storage};

use crate::cli::Options;

fn main() -> Result<()> {
    let options = Options::parse().with_quick_defaults();
    std::fs::create_dir_all(&options.results)
        .with_context(|| format!("cannot create {}", options.results.display()))?;
    let machine = cpu::split_cores()?;
    report::print_method(&options, &machine);
    let cases = cases::all(&options);
    anyhow::ensure!(!cases.is_empty(), "no case matches --only {}", options.only.join(" "));
    let files = storage::Files::prepare(&options.dir, options.size)?;
    let mut rows = Vec::new();
    for (done, case) in cases.iter().enumerate() {
        report::print_progress(done, cases.len(), case);
        let row = measure::run(case, &files, &options, &machine).with_context(|| format!("case {case}"))?;
        report::print_case(&row);
        rows.push(row);
    }
    let idle = idle::check(&files, &options, &machine)?;
    report::print_summary(&rows, &idle);
    report::write_csv(&options.results, &rows, &idle)?;
    plot::write_svg(&options.results.join("macro.svg"), &rows)?;
    println!("written: {}/macro.csv, samples.csv, macro.svg", options.results.display());
    Ok(())
}
