//! Who makes points in time: sends transactions and commands to jobs, keeps what follows from them, and has the judge
//! look at it.
//!
//! Each disk has a bitmap *chain*, of which backups upon backups are made, and a bitmap *watch*, which is looked at.
//! What a transaction is to change is noted when its reply has come; in between its bitmaps are left alone.

mod conclude;
mod listen;
mod plan;
mod watch;

use super::history::{Bits, Cut, Moment, Recording};
use super::machine::Machine;
use super::setting::{Betrayal, DISKS, DiskSetting, Setting};
use super::site::Place;
use tidemark_jobs::action::{Action, BitmapMode};
use tidemark_jobs::transaction::{TransactionError, run};
use tidemark_jobs::{Answer, Command, Family, JobError, Status};

/// What a backup is to its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything, by itself.
    Full,
    /// Everything, and the chain begins here: its bitmap is cleared at the same moment.
    Base,
    /// Everything, and the chain begins here, as the mode says.
    Anew(BitmapMode),
    /// The next link of the chain.
    Link(BitmapMode),
    /// Only what is about to be overwritten.
    Fleece,
    /// What the disk held at the beginning.
    Past,
}

/// How a job has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    Failed(String),
    Cancelled,
}

/// A backup.
#[derive(Debug)]
pub(super) struct Job {
    id: String,
    disk: usize,
    target: usize,
    kind: Kind,
    /// The transaction that began it.
    transaction: u32,
    cut: Option<Cut>,
    status: Status,
    outcome: Option<Outcome>,
    /// When it was heard that it has no result.
    aborting: Option<Moment>,
}

/// What a transaction is to do besides backups.
#[derive(Debug)]
pub(super) enum Intent {
    /// The watch of a disk begins.
    Watch(usize),
    /// What it marks has been merged into a bitmap, and it was cleared or switched or both.
    Look { disk: usize, into: String, clear: bool, toggle: bool },
    /// One of several transactions that did so and cleared it, none of which waited for another.
    Sibling { disk: usize, into: String, of: usize },
    /// What the chain of a disk marks has been merged into a bitmap.
    LookAtChain { disk: usize, into: String },
    /// The chain of a disk begins anew.
    Clear(usize),
}

/// A transaction without a reply.
struct Asked {
    number: u32,
    answer: Answer<Result<(), TransactionError>>,
    from: Moment,
    intents: Vec<Intent>,
    /// A part of the error's text, if it has to fail.
    doomed: Option<&'static str>,
}

/// Backups upon backups.
#[derive(Default)]
struct Chain {
    exists: bool,
    busy: bool,
    /// What the next link is put upon.
    base: Option<Vec<u8>>,
    /// Since when its bitmap records.
    since: Option<Cut>,
    /// The bitmap may mark more than was written since.
    loose: bool,
}

/// A bitmap that is looked at.
#[derive(Default)]
struct Watch {
    exists: bool,
    pending: bool,
    granularity: u64,
    recordings: Vec<Recording>,
    open: Option<Cut>,
    /// What the last look has found.
    last: Option<(Bits, Recording)>,
    /// What several transactions at once have found so far, and when.
    siblings: Vec<(Bits, Cut)>,
}

/// A bitmap that has served its turn; it records nothing.
struct Litter {
    place: Place,
    name: String,
    bits: Bits,
}

/// What was restored of a transaction.
struct Restored {
    transaction: u32,
    disk: usize,
    bytes: Vec<u8>,
}

/// The operator.
pub struct Operator {
    asked: Vec<Asked>,
    commands: Vec<Answer<Result<(), JobError>>>,
    jobs: Vec<Job>,
    chains: [Chain; DISKS],
    watches: [Watch; DISKS],
    litter: Vec<Litter>,
    restored: Vec<Restored>,
    transactions: u32,
    names: u32,
}

impl Operator {
    /// An operator who has done nothing yet.
    pub fn new(setting: &Setting) -> Self {
        let watch = |disk: DiskSetting| Watch { granularity: disk.watch_grain, ..Watch::default() };
        Self {
            asked: Vec::new(),
            commands: Vec::new(),
            jobs: Vec::new(),
            chains: Default::default(),
            watches: setting.disks.map(watch),
            litter: Vec::new(),
            restored: Vec::new(),
            transactions: 0,
            names: 0,
        }
    }

    /// Whether there are transactions to be sent.
    pub fn has_plans(&self, setting: &Setting) -> bool {
        self.transactions < setting.points
    }

    /// Whether something has not ended.
    pub fn is_at_work(&self) -> bool {
        !self.asked.is_empty() || !self.commands.is_empty() || !self.jobs.is_empty()
    }

    /// Whether somebody else has something to do for the operator.
    pub fn waits(&self) -> bool {
        let works = |job: &Job| matches!(job.status, Status::Running | Status::Aborting);
        !self.asked.is_empty() || !self.commands.is_empty() || self.jobs.iter().any(works)
    }

    /// What has not ended, to be read by people.
    pub fn state(&self) -> String {
        let asked: Vec<_> = self.asked.iter().map(|asked| (asked.number, &asked.intents)).collect();
        format!("transactions {asked:?}, {} commands, jobs {:?}", self.commands.len(), self.jobs)
    }

    fn name(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}{}", self.names)
    }
}

impl Machine {
    /// What an operator may do at any moment; in the end, only what brings all to an end.
    pub(super) fn operate(&mut self, goes_on: bool) -> Result<(), String> {
        let [transaction, command] = self.setting.chances.map(|chance| self.random.u16(0..4096) < chance);
        if goes_on && transaction && self.operator.asked.len() < 2 {
            self.transact()?;
        }
        if self.operator.jobs.is_empty() {
            return Ok(());
        }
        match goes_on {
            true if command && self.random.bool() => self.command_any(),
            true if command => self.command_to_end(),
            false if self.random.u8(0..32) == 0 => self.command_to_end(),
            _ => {}
        }
        Ok(())
    }

    /// Sends a transaction.
    fn ask(&mut self, actions: Vec<Action>, intents: Vec<Intent>, grouped: bool, doomed: Option<&'static str>) {
        let from = self.history.tick();
        let graph = self.site.graph.clone();
        let work = async move |registry| run(&registry, &graph, actions, grouped).await;
        let answer = self.site.jobs.send_async(work).unwrap();
        let number = self.operator.transactions;
        self.operator.asked.push(Asked { number, answer, from, intents, doomed });
        self.operator.transactions += 1;
    }

    fn command_any(&mut self) {
        let command = match self.random.u8(0..16) {
            0..=3 => Command::Pause,
            4..=7 => Command::Resume,
            8 | 9 => Command::SetSpeed([0, 1, 1 << 20, 64 << 20][self.random.usize(0..4)]),
            10 if self.random.u8(0..4) == 0 => Command::Cancel { force: self.random.bool() },
            11..=13 => Command::Finalize,
            _ => Command::Dismiss,
        };
        let at = self.random.usize(0..self.operator.jobs.len());
        self.command(at, command);
    }

    /// The command that brings some job nearer to its end.
    fn command_to_end(&mut self) {
        let at = self.random.usize(0..self.operator.jobs.len());
        let job = &self.operator.jobs[at];
        let command = match job.status {
            // What can never be read is never copied.
            _ if self.random.u8(0..100) == 0 => Command::Cancel { force: true },
            Status::Paused => Command::Resume,
            Status::Pending => Command::Finalize,
            Status::Concluded => Command::Dismiss,
            Status::Running if job.kind == Kind::Fleece => Command::Cancel { force: true },
            _ => Command::SetSpeed(0),
        };
        self.command(at, command);
    }

    fn command(&mut self, at: usize, command: Command) {
        let id = self.operator.jobs[at].id.clone();
        let family = [Family::Job, Family::BlockJob][self.random.usize(0..2)];
        let work = async move |registry: tidemark_jobs::Registry| registry.command(family, &id, command).await;
        self.operator.commands.push(self.site.jobs.send_async(work).unwrap());
    }

    fn is_betrayed(&self, by: Betrayal) -> bool {
        self.setting.betrayal == Some(by)
    }
}
