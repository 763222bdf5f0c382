//! One run: guests of two disks, an operator who makes points in time of them, and everything that happens to both.
//!
//! Invariants it checks besides the judge's: nobody sleeps while there is work; every job ends; every command is
//! answered; a hold is made at once; what a job had for itself is free when it has ended.

mod guests;
mod rings;

use super::history::{ChangeId, Content, History};
use super::holds::{Holds, Witness};
use super::ledger::Ledger;
use super::operator::Operator;
use super::setting::{DISKS, Setting};
use super::site::Site;
use crate::oracle::Tag;
use crate::served::Served;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_backend::export::vhost::queue::Queue;
use tidemark_backend::io::sim::World;
use tidemark_jobs::engine::Engine;

/// Turns without anything ending after which a run hangs.
const PATIENCE: u32 = 300_000;

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests that ended.
    pub requests: u64,
    /// Of them, with an error that a fault explains.
    pub failed: u64,
    /// Points in time made.
    pub points: u64,
    /// Changing requests that were under way when they were.
    pub under_way: u64,
    /// Restores judged.
    pub restores: u64,
    /// Of them, of several disks at one moment.
    pub joint: u64,
    /// Bitmaps judged.
    pub bitmaps: u64,
    /// Jobs that succeeded, failed, were cancelled.
    pub jobs: [u64; 3],
    /// Reads of the past.
    pub past: u64,
    /// Holds.
    pub holds: u64,
    /// The longest time of a change on storage that is quick, in nanoseconds.
    pub slowest: u64,
    /// The machine's trace.
    pub trace: u64,
}

impl Report {
    /// Counts another run in.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.points += other.points;
        self.under_way += other.under_way;
        self.restores += other.restores;
        self.joint += other.joint;
        self.bitmaps += other.bitmaps;
        self.jobs.iter_mut().zip(other.jobs).for_each(|(sum, more)| *sum += more);
        self.past += other.past;
        self.holds += other.holds;
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// A run under way.
pub struct Machine {
    pub(super) setting: Setting,
    pub(super) random: fastrand::Rng,
    pub(super) world: World,
    pub(super) site: Site,
    pub(super) history: History,
    pub(super) ledger: Ledger,
    pub(super) operator: Operator,
    pub(super) report: Report,
    /// Turns since anything has ended.
    pub(super) quiet: u32,
    sent: u32,
    /// Changes that have not ended, and when they were made available.
    under_way: BTreeMap<ChangeId, u64>,
    calm: bool,
}

/// Something to step.
enum Reactor<'a> {
    Queue(&'a mut Queue),
    Jobs(&'a mut Engine),
}

impl Machine {
    /// A machine with guests that have just booted.
    pub fn new(setting: Setting) -> Self {
        let world = World::new(setting.seed);
        let mut random = fastrand::Rng::with_seed(setting.seed);
        let site = Site::new(&world, &setting, &mut random);
        let initial: Vec<Vec<Tag>> = site.disks.iter().map(|disk| disk.initial.clone()).collect();
        Self {
            history: History::new(&initial),
            ledger: Ledger::default(),
            operator: Operator::new(&setting),
            report: Report::default(),
            quiet: 0,
            // The numbers of writes begin after what is there already.
            sent: 1,
            under_way: BTreeMap::new(),
            calm: false,
            setting,
            random,
            world,
            site,
        }
    }

    /// Runs to the end: all commands answered, all jobs and requests ended.
    pub fn run(self) -> Result<Report, String> {
        let holds = Arc::new(Holds::default());
        let report = tracing::subscriber::with_default(Witness(holds.clone()), || self.play())?;
        let (made, waited) = holds.count();
        demand(made >= report.points, || format!("{} points in time and only {made} holds", report.points))?;
        demand(waited == 0, || format!("{waited} of {made} holds were not made at once"))?;
        Ok(Report { holds: made, ..report })
    }

    fn play(mut self) -> Result<Report, String> {
        while self.operator.has_plans(&self.setting) {
            self.turn(true)?;
        }
        while self.operator.is_at_work() || self.in_flight() > 0 {
            self.turn(false)?;
        }
        self.check_end()?;
        self.report.trace = self.world.trace();
        Ok(self.report)
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
        if self.start_stopped() || self.world.advance() {
            return Ok(());
        }
        // Everybody sleeps. Only guests and operator can go on.
        let waits = self.serves() || self.operator.waits();
        if waits && self.quiet >= quiet && !self.step() {
            return Err(format!("everybody sleeps, and there is work: {}", self.operator.state()));
        }
        self.calm = false;
        Ok(())
    }

    fn served(&self) -> impl Iterator<Item = &Served> {
        self.site.disks.iter().flat_map(|disk| std::iter::once(&disk.served).chain(&disk.reader))
    }

    fn in_flight(&self) -> usize {
        self.served().map(Served::in_flight).sum()
    }

    /// Lets one of those who are awake take a step; false if all sleep.
    fn step(&mut self) -> bool {
        let (world, spurious) = (&self.world, self.random.u8(..) == 0 && self.quiet < 10);
        let mut awake = Vec::new();
        for disk in &mut self.site.disks {
            let served = disk.served.process.queues.iter_mut();
            let past = disk.reader.iter_mut().flat_map(|reader| reader.process.queues.iter_mut());
            for served in served.chain(past) {
                if spurious || world.is_awake(served.port) || served.queue.has_work() {
                    awake.push(Reactor::Queue(&mut served.queue));
                }
            }
        }
        if spurious || world.is_awake(self.site.port) || self.site.engine.has_work() {
            awake.push(Reactor::Jobs(&mut self.site.engine));
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

    /// A point in time was made.
    pub(super) fn note_point(&mut self) {
        self.report.points += 1;
        self.report.under_way += self.under_way.len() as u64;
    }

    /// Once nothing is under way: every node is free, and the disks are what their guests have made of them.
    fn check_end(&mut self) -> Result<(), String> {
        for node in self.site.graph.nodes() {
            demand(node.busy().is_none(), || format!("{} is still busy: {:?}", node.name(), node.busy()))?;
            demand(!node.points().tracking().is_busy(), || format!("a bitmap of {} is still in use", node.name()))?;
        }
        let start = self.history.tick();
        for disk in 0..DISKS {
            let whole = self.world.content(self.site.disks[disk].served.process.file);
            let bytes = &whole[usize::try_from(self.setting.disks[disk].window()).unwrap()..];
            let checked = self.history.check_read(start, Content { disk, first: 0, bytes });
            checked.map_err(|why| format!("at the end: {why}"))?;
        }
        Ok(())
    }
}

pub(super) fn demand(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}
