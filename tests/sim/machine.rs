//! One run: a guest, the process that serves it, the machine below, and everything that happens to them.
//!
//! Invariants it checks besides the oracle's: every request ends exactly once and with the status it must have; nobody
//! sleeps while there is work; after a ring was given back nothing of it is in flight.

mod fate;
mod judge;

use crate::guest::{DATA, GuestQueue};
use crate::oracle::{Oracle, SECTOR};
use crate::process::{Process, RingState};
use crate::request::{Action, Parcel};
use crate::scenario::Scenario;
use std::fs::File;
use tempfile::NamedTempFile;
use tidemark_backend::export::vhost::inflight::InflightArea;
use tidemark_backend::export::vhost::memory::MemoryFault;
use tidemark_backend::export::vhost::queue::Letter;
use tidemark_backend::io::sim::World;
use tidemark_frontend::{Arena, GuestMemory, RegionSpec};

/// Turns without any request ending after which a run hangs.
const PATIENCE: u32 = 300_000;

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests that ended.
    pub requests: u64,
    /// Of them, with an error that a fault explains.
    pub failed: u64,
    /// Operations of the simulated kernel.
    pub operations: u64,
    /// Rings stopped and started again.
    pub stops: u64,
    /// Processes killed.
    pub kills: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// The machine's trace.
    pub trace: u64,
}

/// A run under way.
pub struct Machine {
    scenario: Scenario,
    random: fastrand::Rng,
    world: World,
    image: NamedTempFile,
    process: Option<Process>,
    area: Option<File>,
    memory: GuestMemory,
    guests: Vec<GuestQueue>,
    oracle: Oracle,
    sent: u32,
    quiet: u32,
    report: Report,
}

impl Machine {
    /// A machine with an empty disk and a guest that has just booted.
    pub fn new(scenario: Scenario) -> Self {
        let world = World::new(scenario.seed);
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(scenario.image_len()).unwrap();
        let mut machine = Self {
            random: fastrand::Rng::with_seed(scenario.seed),
            oracle: Oracle::new(scenario.sectors),
            world,
            image,
            process: None,
            area: None,
            memory: GuestMemory::default(),
            guests: Vec::new(),
            sent: 0,
            quiet: 0,
            report: Report::default(),
            scenario,
        };
        machine.boot();
        machine
    }

    /// Runs to the end: all requests ended, the disk read and the power cut once more.
    pub fn run(mut self) -> Result<Report, String> {
        while self.wants_to_send() || self.guests.iter().any(|guest| guest.in_flight() > 0) {
            self.turn()?;
        }
        self.check_disk()?;
        self.end_queues()?;
        self.cut_power()?;
        self.report.operations = self.world.operations();
        self.report.trace = self.world.trace();
        Ok(self.report)
    }

    fn wants_to_send(&self) -> bool {
        self.sent < self.scenario.requests
    }

    /// A new guest and a new process on the disk as it is.
    fn boot(&mut self) {
        let scenario = &self.scenario;
        let (queues, size) = (scenario.queues, scenario.queue_size);
        let low = RegionSpec { addr: 0x10_0000, len: 1 << 20 };
        let high_len = (u64::from(queues) * u64::from(size) * u64::from(DATA)).next_multiple_of(4096);
        let high = RegionSpec { addr: 1 << 32, len: high_len };
        self.memory = GuestMemory::new(&[high, low]).unwrap();
        let (mut low, mut high) = (Arena::new(low), Arena::new(high));
        let flags = [scenario.event_idx, scenario.indirect, scenario.waits_for_calls];
        let guest = |_| GuestQueue::new(&self.memory, [&mut low, &mut high], size, flags);
        self.guests = (0..queues).map(guest).collect();
        self.area =
            scenario.inflight.then(|| InflightArea::create(queues, size, &MemoryFault::new().unwrap()).unwrap().1);
        self.start_process();
    }

    fn start_process(&mut self) {
        let mut process = Process::start(&self.world, &self.scenario, self.image.path(), self.area.as_ref());
        if self.report.kills + self.report.power_cuts == 0 {
            let len = self.scenario.image_len();
            let alignment = if self.scenario.is_direct() { 4096 } else { 1 };
            self.world.add_disk(process.file, vec![0; usize::try_from(len).unwrap()], alignment);
            self.world.set_faults(self.scenario.faults);
        }
        for (index, guest) in self.guests.iter().enumerate() {
            process.start_ring(index, &self.scenario, guest, &self.memory, guest.used_idx());
        }
        self.process = Some(process);
    }

    fn turn(&mut self) -> Result<(), String> {
        self.quiet += 1;
        if self.quiet > PATIENCE {
            return Err("requests do not end".into());
        }
        if self.wants_to_send() {
            self.interfere()?;
            if self.random.bool() {
                self.send();
            }
        } else {
            self.resume();
        }
        self.read_replies()?;
        if self.random.bool() {
            self.collect()?;
        }
        if self.step() || self.world.advance() {
            return Ok(());
        }
        // Everybody sleeps. Only the guest and the front-end can go on.
        let quiet = self.quiet;
        self.collect()?;
        self.read_replies()?;
        let stuck = self.stuck();
        if self.quiet >= quiet && !stuck.is_empty() && !self.step() {
            return Err(format!("everybody sleeps, and there are requests in queues {stuck:?}"));
        }
        self.resume();
        self.send();
        Ok(())
    }

    /// Queues that should be at work.
    fn stuck(&self) -> Vec<usize> {
        let Some(process) = &self.process else { return Vec::new() };
        let at_work = |index: &usize| {
            let served = &process.queues[*index];
            match served.state {
                RingState::Running => served.enabled && self.guests[*index].in_flight() > 0,
                RingState::Starting(_) | RingState::Stopping(_) => true,
                RingState::Stopped(_) => false,
            }
        };
        (0..self.guests.len()).filter(at_work).collect()
    }

    /// Lets one of the awake queues take a step; false if all sleep.
    fn step(&mut self) -> bool {
        let Some(process) = &mut self.process else { return false };
        let spurious = self.sent < self.scenario.requests && self.random.u8(..) == 0;
        let world = &self.world;
        let mut awake: Vec<_> = process
            .queues
            .iter_mut()
            .filter(|served| spurious || world.is_awake(served.port) || served.queue.has_work())
            .collect();
        if awake.is_empty() {
            return false;
        }
        let chosen = self.random.usize(0..awake.len());
        assert!(awake[chosen].queue.step(), "nobody has told it to end");
        true
    }

    fn send(&mut self) {
        let index = self.random.usize(0..self.guests.len());
        if !self.wants_to_send() || !self.guests[index].has_room() {
            return;
        }
        self.sent += 1;
        let parcel = self.parcel();
        let start = match &parcel.action {
            Action::Read(_) => self.oracle.begin_read(),
            Action::Write(range, tag) => self.oracle.begin_change(range.clone(), *tag),
            Action::Zero(range) | Action::Discard(range) => self.oracle.begin_change(range.clone(), 0),
            Action::Flush | Action::GetId | Action::Malformed(_) => self.oracle.tick(),
        };
        self.guests[index].send(parcel, start, &mut self.random);
    }

    fn parcel(&mut self) -> Parcel {
        let (random, sectors) = (&mut self.random, self.scenario.sectors);
        let len = random.usize(1..=self.scenario.longest.min(sectors));
        let start = random.usize(0..=sectors - len);
        let range = start..start + len;
        let action = match random.u8(0..20) {
            0..=6 => Action::Read(range),
            7..=12 => Action::Write(range, self.sent),
            13 => Action::Write(range, 0),
            14 => Action::Zero(range),
            15 => Action::Discard(range),
            16 | 17 => Action::Flush,
            18 => Action::GetId,
            _ => return Parcel::malformed(random, self.scenario.device_sectors()),
        };
        Parcel::new(action, random.bool())
    }

    /// What has ended, judged.
    fn collect(&mut self) -> Result<(), String> {
        for index in 0..self.guests.len() {
            for ended in self.guests[index].collect()? {
                self.quiet = 0;
                self.report.requests += 1;
                let what = format!("queue {index}, {:?}, status {}", ended.parcel.action, ended.status);
                self.judge(ended).map_err(|why| format!("{what}: {why}"))?;
            }
        }
        Ok(())
    }

    fn disk(&self, file: tidemark_backend::io::FileId) -> Vec<u8> {
        let start = usize::try_from(self.scenario.window()).unwrap();
        self.world.content(file)[start..start + self.scenario.sectors * SECTOR].to_vec()
    }

    /// Tells every queue to end; all must.
    fn end_queues(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        for served in &mut process.queues {
            served.queue.mail().send(Letter::End);
            let ended = (0..1000).any(|_| !served.queue.step());
            demand(ended, || "a queue does not end".into())?;
        }
        Ok(())
    }
}

fn demand(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}
