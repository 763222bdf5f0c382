//! `make bench`: the NBD server beside qemu-storage-daemon's, for clients that copy a disk, that use it, and that ask
//! what has changed.
//!
//! Everything compared takes turns within one run; what is reported is the median over the rounds of the ratios of
//! neighbouring measurements, with its 95 % interval, beside the target it has. Clients come by a UNIX socket and have
//! the other core, with all their threads.

mod bitmap;
mod changes;
mod cli;
mod client;
mod contest;
mod server;

use anyhow::{Context, Result};
use clap::Parser;
use tidemark_benches::awake::Awake;
use tidemark_benches::cpu::{self, Machine};
use tidemark_benches::images::Format;
use tidemark_benches::report::{self, Report};
use tidemark_benches::storage::Storage;

use crate::cli::Options;
use crate::client::Client;
use crate::contest::Disk;

/// What disks are on.
const DISKS: [(Storage, Format); 5] = [
    (Storage::Cached, Format::Raw),
    (Storage::Cached, Format::Qcow2),
    (Storage::Tmpfs, Format::Raw),
    (Storage::Tmpfs, Format::Qcow2),
    (Storage::Null, Format::Raw),
];

/// What is done with each.
const CLIENTS: [(&str, Client); 6] = [
    ("copy/c1", Client::Nbdcopy { connections: 1 }),
    ("copy/c4", Client::Nbdcopy { connections: 4 }),
    ("randread/d1", Client::Fio { writes: false, depth: 1 }),
    ("randread/d32", Client::Fio { writes: false, depth: 32 }),
    ("randwrite/d1", Client::Fio { writes: true, depth: 1 }),
    ("randwrite/d32", Client::Fio { writes: true, depth: 32 }),
];

fn main() -> Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.results)
        .with_context(|| format!("cannot create {}", options.results.display()))?;
    let machine = cpu::split_cores()?;
    report::print_method(&options.tidemark, &options.qsd, options.pairs(), "NBD clients", &machine);
    let _awake = options.awake.then(|| Awake::keep(&machine)).transpose()?;
    let mut report = Report::default();
    let ran = disks(&options, &machine, &mut report)? + changed(&options, &machine, &mut report)?;
    anyhow::ensure!(ran > 0, "no case matches --only {}", options.only.join(" "));
    println!("written: {}/points.csv, samples.csv", options.results.display());
    Ok(())
}

/// Runs the cases of whole disks; says how many.
fn disks(options: &Options, machine: &Machine, report: &mut Report) -> Result<usize> {
    let mut ran = 0;
    for (storage, format) in DISKS {
        let name = |client: &str| match storage {
            Storage::Null => format!("{storage}/{client}"),
            _ => format!("{storage}/{}/{client}", format.name()),
        };
        let wanted: Vec<_> = CLIENTS.iter().filter(|(client, _)| options.wants(&name(client))).collect();
        if wanted.is_empty() {
            continue;
        }
        let disk = Disk::prepare(storage, format, options)?;
        for (client, run) in wanted {
            let name = name(client);
            report.begin(&name);
            contest::run(&disk, *run, options, machine, report).with_context(|| format!("case {name}"))?;
            report.write(&options.results)?;
            ran += 1;
        }
    }
    Ok(ran)
}

/// Runs the cases of changed extents; says how many.
fn changed(options: &Options, machine: &Machine, report: &mut Report) -> Result<usize> {
    let mut ran = 0;
    for format in [Format::Raw, Format::Qcow2] {
        let name = format!("changes/{}", format.name());
        if !options.wants(&name) {
            continue;
        }
        report.begin(&name);
        changes::run(format, options, machine, report).with_context(|| format!("case {name}"))?;
        report.write(&options.results)?;
        ran += 1;
    }
    Ok(ran)
}
