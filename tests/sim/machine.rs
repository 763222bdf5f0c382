//! One run: a guest, the process that serves it, the machine below, and everything that happens to them.
//!
//! Invariants it checks besides the oracle's: every request ends exactly once and with the status it must have; nobody
//! sleeps while there is work; after a ring was given back nothing of it is in flight.

use crate::guest::{DATA, Ended, GuestQueue};
use crate::oracle::{End, Oracle, SECTOR};
use crate::process::{Process, RingState, SERIAL};
use crate::request::{Action, IO_ERROR, OK, Parcel};
use crate::scenario::Scenario;
use std::fs::File;
use std::sync::mpsc::channel;
use tempfile::NamedTempFile;
use tidemark_backend::export::vhost::inflight::InflightArea;
use tidemark_backend::export::vhost::memory::MemoryFault;
use tidemark_backend::export::vhost::queue::Letter;
use tidemark_backend::io::sim::{Faults, World};
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
            let waits = match served.state {
                RingState::Running => served.enabled && self.guests[*index].in_flight() > 0,
                RingState::Starting(_) | RingState::Stopping(_) => true,
                RingState::Stopped(_) => false,
            };
            waits
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

    fn judge(&mut self, ended: Ended) -> Result<(), String> {
        let Ended { parcel, start, status, used_len, data } = ended;
        if let Action::Malformed(expected) = parcel.action {
            return demand(status == expected && used_len == 1, || format!("should be status {expected}"));
        }
        let well = status == OK;
        self.report.failed += u64::from(!well);
        demand(well || status == IO_ERROR && self.may_fail(&parcel.action), || "nothing explains the error".into())?;
        let written = if well { parcel.in_len + 1 } else { 1 };
        demand(used_len as usize == written, || format!("used length {used_len}"))?;
        match parcel.action {
            Action::Read(range) => {
                let checked = if well { self.oracle.check_read(start, range.start, &data) } else { Ok(()) };
                self.oracle.end_read(start);
                return checked;
            }
            Action::Write(range, _) | Action::Zero(range) => {
                let stable = self.scenario.is_stable();
                let end = if well { End::Done { stable } } else { End::Perhaps };
                self.oracle.end_change(range, start, end);
            }
            Action::Discard(range) => self.oracle.end_change(range, start, End::Perhaps),
            Action::Flush if well => self.oracle.end_flush(start),
            Action::GetId => {
                let found = data.strip_prefix(SERIAL.as_bytes());
                let padded = found.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
                return demand(padded, || format!("serial {data:?}"));
            }
            Action::Flush | Action::Malformed(_) => {}
        }
        Ok(())
    }

    /// Whether a fault that is switched on explains an error of this action.
    fn may_fail(&self, action: &Action) -> bool {
        let faults: &Faults = &self.scenario.faults;
        let write = faults.write_error + faults.no_space + faults.flush_error;
        let extra = if self.scenario.is_direct() { faults.read_error } else { 0 };
        match action {
            Action::Read(_) => faults.read_error > 0,
            Action::Write(..) | Action::Zero(_) => write + extra > 0,
            Action::Discard(_) => self.scenario.unmap && write > 0,
            Action::Flush => faults.flush_error > 0,
            Action::GetId | Action::Malformed(_) => false,
        }
    }

    /// What a front-end, an operator or fate may do at any moment.
    fn interfere(&mut self) -> Result<(), String> {
        let [stop, memory, disable, kill, power] = self.scenario.chances;
        let index = self.random.usize(0..self.guests.len());
        let mut happens = |chance: u16| self.random.u16(0..4096) < chance;
        let (stop, memory, disable) = (happens(stop), happens(memory), happens(disable));
        let (kill, power, resume) = (happens(kill), happens(power), happens(200));
        if stop {
            self.stop_ring(index);
        }
        if let (true, Some(process)) = (memory, &self.process) {
            let (reply, _) = channel();
            let letter = Letter::Memory(process.map(&self.memory), reply);
            process.queues[index].queue.mail().send(letter);
        }
        if let (true, Some(process)) = (disable, &mut self.process) {
            process.queues[index].enabled = false;
            process.queues[index].queue.mail().send(Letter::Enabled(false));
        }
        if kill {
            self.kill();
            self.start_process();
        }
        if power {
            self.cut_power()?;
            self.boot();
        }
        if resume {
            self.resume();
        }
        Ok(())
    }

    fn stop_ring(&mut self, index: usize) {
        let Some(process) = &mut self.process else { return };
        let served = &mut process.queues[index];
        if matches!(served.state, RingState::Running) {
            let (reply, answer) = channel();
            served.queue.mail().send(Letter::Stop(reply));
            served.state = RingState::Stopping(answer);
            self.report.stops += 1;
        }
    }

    /// Starts what was stopped and enables what was disabled.
    fn resume(&mut self) {
        let Some(process) = &mut self.process else { return };
        for index in 0..self.guests.len() {
            let served = &mut process.queues[index];
            if !served.enabled {
                served.enabled = true;
                served.queue.mail().send(Letter::Enabled(true));
            }
            if let RingState::Stopped(base) = served.state {
                process.start_ring(index, &self.scenario, &self.guests[index], &self.memory, base);
            }
        }
    }

    fn read_replies(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        for (served, guest) in process.queues.iter_mut().zip(&self.guests) {
            match &served.state {
                RingState::Starting(answer) => {
                    if let Ok(result) = answer.try_recv() {
                        result.map_err(|error| format!("a ring is refused: {error}"))?;
                        served.state = RingState::Running;
                    }
                }
                RingState::Stopping(answer) => {
                    let Ok(base) = answer.try_recv() else { continue };
                    let (used, left) = (guest.used_idx(), self.world.in_flight(served.port));
                    demand(used == base && left == 0, || {
                        format!("ring given back at {base} with {used} used and {left} operations under way")
                    })?;
                    served.state = RingState::Stopped(base);
                }
                RingState::Stopped(base) if guest.used_idx() != *base => {
                    return Err(format!("a ring that was given back at {base} has {} used", guest.used_idx()));
                }
                RingState::Running | RingState::Stopped(_) => {}
            }
        }
        Ok(())
    }

    fn kill(&mut self) {
        self.process = None;
        self.report.kills += 1;
        if self.scenario.faults.flush_error > 0 {
            self.oracle.doubt();
        }
    }

    fn cut_power(&mut self) -> Result<(), String> {
        let Some(process) = self.process.take() else { return Ok(()) };
        let file = process.file;
        drop(process);
        self.world.crash();
        self.report.power_cuts += 1;
        let content = self.disk(file);
        self.oracle.check_power_cut(&content).map_err(|why| format!("after a power cut: {why}"))
    }

    fn disk(&self, file: tidemark_backend::io::FileId) -> Vec<u8> {
        let start = usize::try_from(self.scenario.window()).unwrap();
        self.world.content(file)[start..start + self.scenario.sectors * SECTOR].to_vec()
    }

    /// Reads the whole disk once nothing is under way.
    fn check_disk(&mut self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        let content = self.disk(process.file);
        let start = self.oracle.begin_read();
        let checked = self.oracle.check_read(start, 0, &content);
        self.oracle.end_read(start);
        checked.map_err(|why| format!("at the end: {why}"))
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
