//! Who puts images on top of others: composes transactions, and keeps what follows from them.

use super::images::{Format, Image};
use super::life::writable;
use super::machine::Machine;
use super::moves::Move;
use super::setting::{Betrayal, Setting};
use crate::points::history::{Cut, Moment};
use crate::points::setting::DISKS;
use crate::points::site::GARBAGE;
use tidemark_backend::io::FileId;
use tidemark_backend::node::copy_before_write::CbwOptions;
use tidemark_backend::node::points;
use tidemark_jobs::action::{
    Action, BackupOptions, BackupSync, BitmapName, MergeSource, SnapshotOptions, SnapshotOverlay,
};
use tidemark_jobs::transaction::{TransactionError, run};
use tidemark_jobs::{Answer, OnError, Status};

/// Most images of a disk at a time.
const TALLEST: usize = 8;
/// The bitmap that images on top begin with.
pub(super) const MARKS: &str = "marks";

/// An image that is to be put on top.
pub(super) struct Top {
    pub disk: usize,
    /// The image below.
    pub old: usize,
    pub image: usize,
    /// A bitmap records what is written to it.
    pub marks: bool,
}

/// A bitmap whose content is looked at.
pub(super) struct Look {
    pub disk: usize,
    pub node: String,
    pub into: String,
}

/// A transaction without a reply.
pub(super) struct Asked {
    pub number: u32,
    pub answer: Answer<Result<(), TransactionError>>,
    pub from: Moment,
    pub tops: Vec<Top>,
    pub look: Option<Look>,
    /// It has to fail.
    pub doomed: bool,
}

/// A backup.
#[derive(Debug)]
pub(super) struct Job {
    pub id: String,
    pub disk: usize,
    pub target: FileId,
    /// The transaction that began it.
    pub transaction: u32,
    pub cut: Option<Cut>,
    pub status: Status,
    /// How it has ended: with this error, or well.
    pub outcome: Option<Result<(), String>>,
}

/// A bitmap that records what is written to an image.
pub(super) struct Recorded {
    pub node: String,
    pub from: Cut,
}

/// What an image below others held when that became its place.
pub(super) struct Frozen {
    pub name: String,
    pub file: FileId,
    pub content: Vec<u8>,
}

/// What a disk held at the moment of a transaction.
pub(super) struct Moments {
    pub transaction: u32,
    pub disk: usize,
    pub bytes: Vec<u8>,
}

/// The operator.
#[derive(Default)]
pub struct Operator {
    pub(super) asked: Option<Asked>,
    pub(super) jobs: Vec<Job>,
    pub(super) recorded: Vec<Recorded>,
    pub(super) frozen: Vec<Frozen>,
    pub(super) moments: Vec<Moments>,
    pub(super) moves: Vec<Move>,
    /// Such jobs so far.
    pub(super) begun: u32,
    transactions: u32,
}

impl Operator {
    /// Whether there are transactions to be sent.
    pub fn has_plans(&self, setting: &Setting) -> bool {
        self.transactions < setting.plans
    }

    /// Whether something has not ended.
    pub fn is_at_work(&self) -> bool {
        self.asked.is_some() || !self.jobs.is_empty() || !self.moves.is_empty()
    }

    /// Whether somebody else has something to do for the operator.
    pub fn waits(&self) -> bool {
        self.is_at_work()
    }

    /// What has not ended, to be read by people.
    pub fn state(&self) -> String {
        format!("transaction {:?}, jobs {:?}", self.asked.as_ref().map(|asked| asked.number), self.jobs)
    }
}

impl Machine {
    /// What an operator may do at any moment; in the end, nothing more.
    pub(super) fn operate(&mut self, goes_on: bool) -> Result<(), String> {
        let ready = self.random.u16(0..4096) < self.setting.chance;
        if goes_on && ready && self.operator.asked.is_none() && self.operator.has_plans(&self.setting) {
            self.transact()?;
        }
        self.operate_moves(goes_on)?;
        if self.setting.betrayal == Some(Betrayal::FlushAlone) {
            self.flush_alone();
        }
        Ok(())
    }

    /// Sends a transaction of this and that.
    fn transact(&mut self) -> Result<(), String> {
        let number = self.operator.transactions;
        self.operator.transactions += 1;
        let doomed = self.random.u8(0..8) == 0;
        let (mut actions, mut tops) = (Vec::new(), Vec::new());
        let snapshot = self.random.u8(0..4);
        for disk in 0..DISKS {
            // Both more often than one of them.
            if self.operator.moves.iter().any(|job| job.disk == disk) {
                continue;
            }
            let taller = snapshot == u8::try_from(disk).unwrap() || snapshot > 1;
            if taller && self.disks[disk].chain.len() < TALLEST {
                tops.push(self.plan_top(disk, &mut actions)?);
                // One on top of the other at the same moment.
                if self.random.u8(0..4) == 0 && self.disks[disk].chain.len() + 1 < TALLEST {
                    tops.push(self.plan_top(disk, &mut actions)?);
                }
            }
            if !doomed && self.random.u8(0..3) == 0 {
                self.plan_backup(disk, number, &mut actions)?;
            }
        }
        let look = if tops.is_empty() && !doomed { self.plan_look(&mut actions) } else { None };
        if doomed {
            // Nobody may notice, wherever it fails.
            let at = self.random.usize(0..=actions.len());
            actions.insert(at, Action::Abort);
        }
        let from = self.history.tick();
        let graph = self.life.graph.clone();
        let work = async move |registry| run(&registry, &graph, actions, false).await;
        let answer = self.life.jobs.send_async(work).unwrap();
        self.operator.asked = Some(Asked { number, answer, from, tops, look, doomed });
        Ok(())
    }

    fn plan_top(&mut self, disk: usize, actions: &mut Vec<Action>) -> Result<Top, String> {
        let (format, sectors) = (Format::image(&mut self.random), self.setting.disks[disk].sectors);
        let on = &self.disks[disk];
        let (old, image) = (*on.coming.last().or(on.chain.last()).unwrap(), on.images.len());
        let mut overlay = Image::empty(format!("disk{disk}-{image}"), format, sectors);
        let opened = writable(&self.setting);
        let node = self.aside(|world| overlay.open(world, &self.life.graph, None, opened));
        node.map_err(|error| format!("an image for a snapshot cannot be opened: {error}"))?;
        let name = overlay.name.clone();
        let below = self.disks[disk].images[old].name.clone();
        self.disks[disk].images.push(overlay);
        self.disks[disk].coming.push(image);
        let snapshot = SnapshotOptions {
            node: below,
            missing: "there is no such node".to_owned(),
            overlay: SnapshotOverlay::Node(name.clone()),
        };
        actions.push(Action::Snapshot(snapshot));
        let marks = self.random.u8(0..4) > 0;
        if marks {
            let granularity = Some(self.setting.disks[disk].grain);
            let add =
                Action::BitmapAdd { node: name, name: MARKS.into(), granularity, persistent: false, disabled: false };
            let at = self.random.usize(actions.len() - 1..=actions.len());
            actions.insert(at, add);
        }
        Ok(Top { disk, old, image, marks })
    }

    /// What a bitmap of a top marks is merged into another.
    fn plan_look(&mut self, actions: &mut Vec<Action>) -> Option<Look> {
        let tops: Vec<(usize, String)> =
            self.disks.iter().enumerate().map(|(disk, images)| (disk, images.top().name.clone())).collect();
        let (disk, node) =
            tops.into_iter().find(|(_, name)| self.operator.recorded.iter().any(|on| on.node == *name))?;
        let into = format!("look{}", self.operator.transactions);
        let granularity = Some(self.setting.disks[disk].grain);
        let (of, name) = (node.clone(), into.clone());
        actions.push(Action::BitmapAdd { node: of, name, granularity, persistent: false, disabled: true });
        let sources = vec![MergeSource { node: None, name: MARKS.to_owned() }];
        let target = BitmapName { node: node.clone(), name: into.clone() };
        actions.push(Action::BitmapMerge { target, sources });
        Some(Look { disk, node, into })
    }

    fn plan_backup(&mut self, disk: usize, transaction: u32, actions: &mut Vec<Action>) -> Result<(), String> {
        let len = self.setting.disks[disk].sectors * crate::oracle::SECTOR;
        let id = format!("job{transaction}-{disk}");
        let mut target = Image::new(format!("target{transaction}-{disk}"), Format::Raw, vec![GARBAGE; len]);
        let opened = writable(&self.setting);
        let node = self.aside(|world| target.open(world, &self.life.graph, None, opened));
        node.map_err(|error| format!("a target cannot be opened: {error}"))?;
        let file = target.file.expect("it is open");
        let options = self.backup(disk, &id, &target.name);
        self.operator.jobs.push(Job {
            id,
            disk,
            target: file,
            transaction,
            cut: None,
            status: Status::Created,
            outcome: None,
        });
        self.life.targets.push(target);
        let at = self.random.usize(0..=actions.len());
        actions.insert(at, Action::Backup(options));
        Ok(())
    }

    fn backup(&mut self, disk: usize, id: &str, target: &str) -> BackupOptions {
        let random = &mut self.random;
        BackupOptions {
            job_id: Some(id.to_owned()),
            device: self.disks[disk].top().name.clone(),
            target: target.to_owned(),
            sync: BackupSync::Full,
            speed: [0, 0, 1 << 20][random.usize(0..3)],
            bitmap: None,
            bitmap_mode: None,
            compress: false,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            auto_finalize: true,
            auto_dismiss: true,
            filter_node_name: None,
            discard_source: false,
            max_workers: [1, 2, 64][random.usize(0..3)],
            max_chunk: [0, 65536][random.usize(0..2)],
            copying: CbwOptions { min_chunk: [0, 4096, 65536][random.usize(0..3)], ..CbwOptions::default() },
        }
    }

    /// Flushes of what was put on top leave out what is below.
    fn flush_alone(&self) {
        let Some(asked) = &self.operator.asked else { return };
        for top in &asked.tops {
            let node = |image: usize| self.life.graph.find(&self.disks[top.disk].images[image].name);
            // Guests come to the uppermost.
            let front = self.disks[top.disk].coming.last().copied().unwrap_or(top.image);
            if let (Some(old), Some(image)) = (node(top.old), node(front)) {
                // Where it cannot be done now there is another turn.
                let _ = points::hold(std::slice::from_ref(&image), &mut || image.points().flush_alone(&old));
            }
        }
    }
}
