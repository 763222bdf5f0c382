//! One run: processes one after the other on the same disks, each with guests, an operator, and an end.
//!
//! Invariants it checks besides the judge's: nobody sleeps while there is work; every command is answered; a hold is made
//! at once; what a transaction had for itself is free when all has ended.

mod end;

use super::life::{Disk, Life, fresh};
use super::operator::Operator;
use super::report::Report;
use super::setting::Setting;
use crate::oracle::{Oracle, SECTOR, Tag, content, decode};
use crate::points::history::{ChangeId, Content, History};
use crate::points::holds::{Holds, Witness};
use crate::points::ledger::Ledger;
use crate::points::setting::DISKS;
use crate::points::site::initial;
use crate::served::Served;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_backend::export::vhost::queue::Queue;
use tidemark_backend::io::sim::{Faults, World};
use tidemark_jobs::Engine;

/// Turns without anything ending after which a run hangs.
const PATIENCE: u32 = 60_000;

/// What is left of a process.
pub struct Carried {
    pub(super) random: fastrand::Rng,
    pub(super) disks: Vec<Disk>,
    /// What each disk may hold now.
    pub(super) oracles: Vec<Oracle>,
    /// The same, where what was not flushed has to be there, too.
    pub(super) history: Option<History>,
    pub(super) sent: u32,
    pub(super) report: Report,
}

/// A process under way.
pub struct Machine {
    pub(super) setting: Setting,
    pub(super) random: fastrand::Rng,
    pub(super) life: Life,
    pub(super) disks: Vec<Disk>,
    pub(super) history: History,
    pub(super) oracles: Vec<Oracle>,
    pub(super) ledger: Ledger,
    pub(super) operator: Operator,
    pub(super) report: Report,
    /// Turns since anything has ended.
    pub(super) quiet: u32,
    /// The number of the last write of all.
    pub(super) sent: u32,
    /// Requests that may still be sent.
    pub(super) requests_left: u32,
    /// Looks that may still be taken at what a power cut would leave.
    pub(super) looks_left: u32,
    /// Changes that have not ended, by the number that the oracle knows them by.
    pub(super) under_way: BTreeMap<ChangeId, u64>,
    calm: bool,
}

/// Something to step.
enum Reactor<'a> {
    Queue(&'a mut Queue),
    Jobs(&'a mut Engine),
}

/// Plays a run to its end.
pub fn run(setting: Setting) -> Result<Report, String> {
    // The journals of images take numbers by chance: those of a simulated process that was killed stay as long as this
    // one, and no other run may come upon them. What happens does not depend on which numbers they are.
    let holds = Arc::new(Holds::default());
    let report = tracing::subscriber::with_default(Witness(holds.clone()), || play(&setting))?;
    let (made, waited) = holds.count();
    demand(made >= report.snapshots / DISKS as u64, || {
        format!("{} snapshots and only {made} holds", report.snapshots)
    })?;
    demand(waited == 0, || format!("{waited} of {made} holds were not made at once"))?;
    Ok(Report { holds: made, ..report })
}

fn play(setting: &Setting) -> Result<Report, String> {
    let mut random = fastrand::Rng::with_seed(setting.seed);
    let (mut disks, mut oracles) = (Vec::new(), Vec::new());
    for (number, disk) in setting.disks.iter().enumerate() {
        let raw = disk.chain[0] == super::images::Format::Raw;
        let tags = if raw { initial(disk.sectors, &mut random) } else { vec![0; disk.sectors] };
        let bottom = tags.iter().enumerate().flat_map(|(sector, tag)| content(sector, 1, *tag)).collect();
        disks.push(fresh(number, disk, bottom));
        oracles.push(Oracle::of(&tags));
    }
    // The numbers of writes begin after what is there already.
    let mut carried = Carried { random, disks, oracles, history: None, sent: 1, report: Report::default() };
    for number in 0..setting.lives {
        let lived = Machine::new(setting, carried).and_then(Machine::live);
        carried = lived.map_err(|why| format!("process {number}: {why}"))?;
    }
    Machine::new(setting, carried).map(|machine| machine.report)
}

impl Machine {
    /// A process that has just started on what is left of the last one, with guests that have just booted.
    fn new(setting: &Setting, carried: Carried) -> Result<Self, String> {
        let Carried { mut random, mut disks, mut oracles, history, sent, report } = carried;
        let world = World::new(random.u64(..));
        let life = Life::new(world, setting, &mut disks)?;
        life.world.set_faults(Faults::default());
        let mut tags = Vec::new();
        for (disk, oracle) in oracles.iter_mut().enumerate() {
            let found = super::judge::content(&life, disks[disk].top())?;
            let judged = match &history {
                Some(history) => history.check_read(u64::MAX, Content { disk, first: 0, bytes: &found }),
                None => Ok(()),
            };
            judged.map_err(|why| format!("after a kill: {why}"))?;
            oracle.check_power_cut(&found).map_err(|why| format!("disk {disk} when it was opened again: {why}"))?;
            tags.push(read_tags(&found)?);
        }
        life.world.set_faults(setting.queues.faults);
        Ok(Self {
            history: History::new(&tags),
            ledger: Ledger::default(),
            operator: Operator::default(),
            quiet: 0,
            requests_left: setting.requests,
            looks_left: setting.looks,
            under_way: BTreeMap::new(),
            calm: false,
            setting: setting.clone(),
            random,
            life,
            disks,
            oracles,
            report,
            sent,
        })
    }

    fn live(mut self) -> Result<Carried, String> {
        while self.operator.has_plans(&self.setting) {
            self.turn(true)?;
        }
        let sudden = self.random.bool();
        if sudden {
            for _ in 0..self.random.u32(0..3000) {
                self.turn(true)?;
            }
        } else {
            while self.operator.is_at_work() || self.in_flight() > 0 {
                self.turn(false)?;
            }
            self.check_end()?;
        }
        self.end(sudden)
    }

    fn turn(&mut self, goes_on: bool) -> Result<(), String> {
        self.quiet += 1;
        demand(self.quiet < PATIENCE, || format!("nothing ends any more: {}", self.operator.state()))?;
        // In between guests let time pass.
        if self.random.u8(0..64) == 0 {
            self.calm = !self.calm;
        }
        if self.random.bool() && !self.calm && goes_on {
            self.send();
        }
        self.stop(goes_on)?;
        if self.random.u8(0..128) == 0 {
            self.start_stopped();
        }
        self.operate(goes_on)?;
        self.listen()?;
        if self.random.bool() {
            self.collect()?;
        }
        if self.step() {
            return Ok(());
        }
        // Guests see what has ended before time passes, and nobody's ring is away for long.
        let quiet = self.quiet;
        self.collect()?;
        self.listen()?;
        if self.start_stopped() || self.life.world.advance() {
            return Ok(());
        }
        // Everybody sleeps. Only guests and operator can go on.
        let waits = self.life.served.iter().any(Served::serves) || self.operator.waits();
        if waits && self.quiet >= quiet && !self.step() {
            return Err(format!("everybody sleeps, and there is work: {}", self.operator.state()));
        }
        self.calm = false;
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.life.served.iter().map(Served::in_flight).sum()
    }

    /// Stops a ring now and then, and notes what comes of it.
    fn stop(&mut self, goes_on: bool) -> Result<(), String> {
        let (disk, stop) = (self.random.usize(0..DISKS), self.random.u16(0..2048) == 0);
        let served = &mut self.life.served[disk];
        let index = self.random.usize(0..served.guests.len());
        if served.look_at_ring(index, stop && goes_on)? {
            self.quiet = 0;
        }
        Ok(())
    }

    fn start_stopped(&mut self) -> bool {
        let queues = &self.setting.queues;
        self.life.served.iter_mut().fold(false, |any, served| served.start_stopped(queues) | any)
    }

    /// Lets one of those who are awake take a step; false if all sleep.
    fn step(&mut self) -> bool {
        let (life, spurious) = (&mut self.life, self.random.u8(..) == 0 && self.quiet < 10);
        let mut awake = Vec::new();
        for served in life.served.iter_mut().flat_map(|served| served.process.queues.iter_mut()) {
            if spurious || life.world.is_awake(served.port) || served.queue.has_work() {
                awake.push(Reactor::Queue(&mut served.queue));
            }
        }
        if spurious || life.world.is_awake(life.port) || life.engine.has_work() {
            awake.push(Reactor::Jobs(&mut life.engine));
        }
        if awake.is_empty() {
            return false;
        }
        let chosen = self.random.usize(0..awake.len());
        let goes_on = match &mut awake[chosen] {
            Reactor::Queue(queue) => queue.step(),
            Reactor::Jobs(engine) => engine.step(),
        };
        assert!(goes_on, "nobody has told it to end");
        true
    }

    /// Does something that no fault disturbs.
    pub(super) fn aside<T>(&self, work: impl FnOnce(&World) -> T) -> T {
        self.life.world.set_faults(Faults::default());
        let value = work(&self.life.world);
        self.life.world.set_faults(self.setting.queues.faults);
        value
    }
}

fn read_tags(content: &[u8]) -> Result<Vec<Tag>, String> {
    content.chunks(SECTOR).enumerate().map(|(sector, bytes)| decode(sector, bytes)).collect()
}

pub(super) fn demand(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}
