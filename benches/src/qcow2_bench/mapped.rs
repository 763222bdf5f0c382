//! Clusters that are there, read or overwritten at random: what an image costs over the raw file, in either daemon.
//!
//! The raw file has no format node above it: it is the least that could be. Two daemons share it, each has an image of
//! its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tidemark_benches::case::{Case, Pattern};
use tidemark_benches::contender::{Contender, best_aio};
use tidemark_benches::cpu::Machine;
use tidemark_benches::images::{Format, blockdev};
use tidemark_benches::load::Sample;
use tidemark_benches::monitor::Monitor;
use tidemark_benches::report::{Report, Target, print_progress};
use tidemark_benches::statistics::{difference, ratio};
use tidemark_benches::steps;
use tidemark_benches::storage::Storage;
use tidemark_benches::turns::order;

use crate::cli::Options;

/// Times that instructions are counted; they differ by less than one per request.
pub const COUNTS: u32 = 3;

/// Before instructions are counted.
const WARM: Duration = Duration::from_millis(200);

/// A daemon on a disk, and what it gave, by round.
pub struct Entrant {
    peer: &'static str,
    disk: String,
    /// Which `aio=` it was measured with; empty if it was given none.
    aio: &'static str,
    counts_instructions: bool,
    contender: Contender,
    /// Requests per second.
    pub iops: Vec<f64>,
    /// Microseconds of CPU per request.
    pub cpu: Vec<f64>,
    /// Instructions in user space per request, if they are counted.
    pub instructions: Vec<f64>,
}

impl Entrant {
    /// Our daemon on a disk.
    pub fn ours(
        format: Format,
        path: PathBuf,
        case: &Case,
        size: u64,
        options: &Options,
        machine: &Machine,
    ) -> Result<Self> {
        let contender = Contender::start(&options.tidemark, blockdev(format, &path, ""), case, size, machine)?;
        Ok(Self::new("tidemark", format, "", contender))
    }

    /// The daemon compared with, on a disk.
    pub fn qsd(
        format: Format,
        path: PathBuf,
        case: &Case,
        size: u64,
        options: &Options,
        machine: &Machine,
    ) -> Result<Self> {
        let start = |aio| Contender::start(&options.qsd, blockdev(format, &path, aio), case, size, machine);
        let aio = best_aio(case, start)?;
        Ok(Self::new("qsd", format, aio, start(aio)?))
    }

    fn new(peer: &'static str, format: Format, aio: &'static str, contender: Contender) -> Self {
        let disk = format.name().to_owned();
        let counts_instructions = peer == "tidemark";
        Entrant {
            peer,
            disk,
            aio,
            counts_instructions,
            contender,
            iops: Vec::new(),
            cpu: Vec::new(),
            instructions: Vec::new(),
        }
    }

    /// Says in tables how many queues there are. Instructions are those of one thread: they are not counted.
    pub fn with_queues(mut self, queues: u16) -> Self {
        self.disk = format!("{}, {queues} queue{}", self.disk, if queues == 1 { "" } else { "s" });
        self.counts_instructions = false;
        self
    }

    /// Has its daemon do something.
    pub fn command(&mut self, run: fn(&mut Monitor) -> Result<()>) -> Result<()> {
        run(&mut self.contender.daemon.monitor()?)
    }

    /// Puts it under load without measuring.
    pub fn warm_up(&mut self, duration: Duration) -> Result<()> {
        self.contender.load.run(duration).map(drop)
    }

    /// Measures once.
    pub fn measure(&mut self, options: &Options) -> Result<()> {
        let Sample { iops, cpu_us_per_io } = self.contender.load.measure(options.duration())?;
        self.iops.push(iops);
        self.cpu.push(cpu_us_per_io);
        Ok(())
    }

    /// Counts its instructions once, if they are counted. A daemon that was stepped takes its own slowness for that of
    /// storage for a while: not before anything else is measured.
    pub fn count(&mut self, options: &Options, machine: &Machine) -> Result<()> {
        let Contender { daemon, load } = &mut self.contender;
        if self.counts_instructions {
            // How long it polls, and in what batches, is that of its load again.
            load.run(WARM)?;
            self.instructions.push(steps::per_request(daemon.pid(), machine.peer_core, load, options.duration())?);
        }
        Ok(())
    }

    fn show(&self, report: &mut Report) {
        if !self.aio.is_empty() {
            report.note(&format!("{} {} with aio={}", self.peer, self.disk, self.aio));
        }
        report.samples(self.peer, &self.disk, "IOPS", &self.iops);
        report.samples(self.peer, &self.disk, "CPU us/IO", &self.cpu);
        if !self.instructions.is_empty() {
            report.samples(self.peer, &self.disk, "user instructions/IO", &self.instructions);
        }
    }
}

/// Measures all in turn, in every round.
pub fn in_turn(entrants: &mut [Entrant], options: &Options, machine: &Machine, report: &mut Report) -> Result<()> {
    for round in 0..options.pairs() {
        for index in order(entrants.len(), round) {
            let Some(entrant) = entrants.get_mut(index) else { continue };
            print_progress(round, options.pairs(), &format!("{} {}", entrant.peer, entrant.disk));
            entrant.measure(options)?;
        }
    }
    for _ in 0..COUNTS {
        entrants.iter_mut().try_for_each(|entrant| entrant.count(options, machine))?;
    }
    print_progress(options.pairs(), options.pairs(), "");
    entrants.iter().for_each(|entrant| entrant.show(report));
    Ok(())
}

/// Runs a case.
pub fn run(
    storage: Storage,
    pattern: Pattern,
    options: &Options,
    machine: &Machine,
    report: &mut Report,
) -> Result<()> {
    let case = Case { storage, pattern, depth: 32, queues: 1 };
    let images = options.images(storage)?.filled(2)?;
    let size = images.size();
    let mut entrants = [
        Entrant::ours(Format::Raw, images.raw(), &case, size, options, machine)?,
        Entrant::ours(Format::Qcow2, images.image(0), &case, size, options, machine)?,
        Entrant::qsd(Format::Raw, images.raw(), &case, size, options, machine)?,
        Entrant::qsd(Format::Qcow2, images.image(1), &case, size, options, machine)?,
    ];
    in_turn(&mut entrants, options, machine, report)?;
    let [raw, qcow2, qsd_raw, qsd] = &entrants;
    report.point("IOPS: qcow2 / raw", ratio(&qcow2.iops, &raw.iops), Target::AtLeast(0.95));
    let more = difference(&qcow2.instructions, &raw.instructions);
    report.point("user instructions per I/O: qcow2 - raw", more, Target::AtMost(150.0));
    report.point("CPU per I/O: qcow2 / raw", ratio(&qcow2.cpu, &raw.cpu), Target::Shown);
    report.point("IOPS: qcow2 / qsd's qcow2", ratio(&qcow2.iops, &qsd.iops), Target::AtLeast(1.8));
    report.point("CPU per I/O: qcow2 / qsd's qcow2", ratio(&qcow2.cpu, &qsd.cpu), Target::Shown);
    report.point("IOPS: raw / qsd's raw", ratio(&raw.iops, &qsd_raw.iops), Target::Shown);
    report.point("IOPS: qsd's qcow2 / qsd's raw", ratio(&qsd.iops, &qsd_raw.iops), Target::Shown);
    Ok(())
}
