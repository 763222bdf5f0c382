//! One client on the disks of both daemons, in turn.
//!
//! Clients that only read find the same file with both: in the page cache no two are alike. For those that write, each has
//! an image of its own; a raw file may be written by both.

use anyhow::Result;
use tidemark_benches::cpu::Machine;
use tidemark_benches::images::{Format, Images, blockdev};
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::ratio;
use tidemark_benches::storage::Storage;
use tidemark_benches::turns::order;

use crate::cli::Options;
use crate::client::{Client, Sample};
use crate::server::{DISK, Peer, Server};

/// Both daemons' disks.
pub struct Disk {
    storage: Storage,
    format: Format,
    /// None for a disk that is not stored.
    images: Option<Images>,
    size: u64,
}

impl Disk {
    /// Writes them, full of data that does not compress.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn prepare(storage: Storage, format: Format, options: &Options) -> Result<Disk> {
        let copies = if format == Format::Raw { 0 } else { Peer::BOTH.len() };
        let images = match storage {
            Storage::Null => None,
            _ => Some(options.images(storage)?.filled(copies)?),
        };
        Ok(Disk { storage, format, images, size: u64::from(options.size) << 20 })
    }

    fn blockdev(&self, peer: Peer, writes: bool, aio: &str) -> String {
        let Some(images) = &self.images else {
            return format!("driver=null-co,node-name={DISK},size={}", self.size);
        };
        let path = match self.format {
            Format::Raw => images.raw(),
            Format::Qcow2 => images.image(usize::from(writes && peer == Peer::Qsd)),
        };
        let access = if writes { "" } else { ",read-only=on" };
        format!("{}{access}", blockdev(self.format, &path, aio))
    }

    fn serve(&self, peer: Peer, client: Client, aio: &str, options: &Options, machine: &Machine) -> Result<Server> {
        let writable = if client.writes() { "on" } else { "off" };
        let export = format!("type=nbd,id=e,node-name={DISK},name={DISK},writable={writable}");
        Server::start(peer, &[self.blockdev(peer, client.writes(), aio)], Some(&export), options, machine)
    }
}

/// A daemon, and what clients found.
struct Entrant {
    peer: Peer,
    server: Server,
    rate: Vec<f64>,
    cpu: Vec<f64>,
}

/// Runs a case.
///
/// # Errors
/// If a daemon or a client fails.
pub fn run(disk: &Disk, client: Client, options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    let mut entrants = Vec::new();
    for peer in Peer::BOTH {
        let aio = if peer == Peer::Qsd { best_aio(disk, client, options, machine)? } else { "" };
        if !aio.is_empty() {
            report.note(&format!("{} with aio={aio}", peer.name()));
        }
        let server = disk.serve(peer, client, aio, options, machine)?;
        // Threads are started by then, and adaptive things have settled.
        client.run(&server, disk.size, options.duration())?;
        entrants.push(Entrant { peer, server, rate: Vec::new(), cpu: Vec::new() });
    }
    for round in 0..options.pairs() {
        for index in order(entrants.len(), round) {
            let Some(Entrant { peer, server, rate, cpu }) = entrants.get_mut(index) else { continue };
            print_progress(round, options.pairs(), peer.name());
            let sample = client.run(server, disk.size, options.duration())?;
            rate.push(sample.rate);
            cpu.push(sample.cpu);
        }
    }
    print_progress(options.pairs(), options.pairs(), "");
    show(client, &entrants, report);
    Ok(())
}

fn show(client: Client, entrants: &[Entrant], report: &mut Report) {
    for Entrant { peer, rate, cpu, .. } in entrants {
        report.samples(peer.name(), "nbd", client.rate_unit(), rate);
        report.samples(peer.name(), "nbd", client.cpu_unit(), cpu);
    }
    if let [ours, theirs] = entrants {
        let what = |unit: &str| format!("{unit}: tidemark / qsd");
        report.point(&what(client.rate_unit()), ratio(&ours.rate, &theirs.rate), Target::AtLeast(1.0));
        report.point(&what(client.cpu_unit()), ratio(&ours.cpu, &theirs.cpu), Target::AtMost(1.0));
    }
}

/// The `aio=` with which qemu-storage-daemon is fastest for this very client.
fn best_aio(disk: &Disk, client: Client, options: &Options, machine: &Machine) -> Result<&'static str> {
    let mut best = ("", 0.0);
    let choices = disk.storage.aio_choices();
    if let [only] = choices {
        return Ok(only);
    }
    for aio in choices {
        let server = disk.serve(Peer::Qsd, client, aio, options, machine)?;
        client.run(&server, disk.size, options.duration())?;
        let Sample { rate, .. } = client.run(&server, disk.size, options.duration())?;
        if rate > best.1 {
            best = (aio, rate);
        }
    }
    Ok(best.0)
}
