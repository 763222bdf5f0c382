//! `make bench`: `tidemark convert` beside `qemu-img convert -W -m 16`, between raw files and qcow2 images.
//!
//! Both take turns within one run and have all cores; what is reported is the median over the rounds of the ratios of
//! neighbouring measurements, with its 95 % interval, beside the target it has.

mod cli;
mod contest;

use anyhow::{Context, Result};
use clap::Parser;
use tidemark_benches::images::Format;
use tidemark_benches::report::Report;
use tidemark_benches::storage::Storage;

use crate::cli::Options;
use crate::contest::Disks;

fn main() -> Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.results)
        .with_context(|| format!("cannot create {}", options.results.display()))?;
    println!("tidemark: {}", options.tidemark.display());
    println!("qemu-img: {}", options.qemu_img.display());
    println!("method:   {} rounds of both in turn, order changed every round; all cores for both", options.pairs());
    println!("          median of ratios of neighbours [95 % interval]; disks of {} MiB, all data", options.size);
    let mut report = Report::default();
    let mut ran = false;
    for storage in [Storage::Cached, Storage::Tmpfs] {
        let formats = [Format::Raw, Format::Qcow2];
        let pairs = formats.into_iter().flat_map(|from| formats.map(|to| [from, to]));
        let named = pairs.map(|[from, to]| (format!("{storage}/{}-{}", from.name(), to.name()), [from, to]));
        let wanted: Vec<_> = named.filter(|(name, _)| options.wants(name)).collect();
        if wanted.is_empty() {
            continue;
        }
        let disks = Disks::prepare(storage, &options)?;
        for (name, formats) in wanted {
            ran = true;
            report.begin(&name);
            contest::run_case(&disks, formats, &options, &mut report).with_context(|| format!("case {name}"))?;
            report.write(&options.results)?;
        }
    }
    anyhow::ensure!(ran, "no case matches --only {}", options.only.join(" "));
    println!("written: {}/points.csv, samples.csv", options.results.display());
    Ok(())
}
