//! What lies below snapshots, what power cuts leave, what backups hold and what bitmaps mark.

use super::alone::{self, Found};
use super::errands::Errands;
use super::images::Image;
use super::life::{Disk, Life};
use super::machine::{Machine, demand};
use super::operator::{Frozen, MARKS, Moments, Top};
use super::setting::Betrayal;
use crate::oracle::{SECTOR, decode};
use crate::points::history::{Bits, Content, Cut, Recording};
use tidemark_backend::io::sim::World;

/// The content of an image's node in a process.
pub(super) fn content(life: &Life, image: &Image) -> Result<Vec<u8>, String> {
    let node = life.graph.find(&image.name).ok_or_else(|| format!("{} is gone", image.name))?;
    Errands(&life.world).content(&node).map_err(|error| format!("{}: {error}", image.name))
}

impl Image {
    /// What a program finds that opens it now.
    pub(super) fn found(&self, world: &World) -> Found {
        self.with(self.file.map(|file| world.content(file)).unwrap_or_default())
    }

    fn with(&self, content: Vec<u8>) -> Found {
        Found { name: self.name.clone(), format: self.format, content }
    }
}

impl Disk {
    /// Which of the images that may be the disk are it, by `judge` of what is found in them.
    pub(super) fn choose(
        &self,
        mut left: impl FnMut(&Image) -> Found,
        judge: impl Fn(&[u8], u64) -> Result<(), String>,
    ) -> Result<Vec<usize>, String> {
        let mut reasons = Vec::new();
        for chain in self.candidates() {
            let found: Vec<Found> = chain.iter().map(|at| left(&self.images[*at])).collect();
            match alone::read(&found).and_then(|(content, leaks)| judge(&content, leaks)) {
                Ok(()) => return Ok(chain),
                Err(why) => reasons.push(format!("{chain:?}: {why}")),
            }
        }
        Err(reasons.join("; and "))
    }

    /// The process is gone, and these images are the disk.
    pub(super) fn leave(&mut self, chain: Vec<usize>, world: &World, power_cut: bool) {
        (self.chain, self.coming, self.other) = (chain, Vec::new(), None);
        for image in &mut self.images {
            let content = image.file.map(|file| world.content(file)).unwrap_or_default();
            image.leave(content, power_cut);
        }
    }
}

impl Machine {
    /// Images were put on top at one moment: what is below is of that moment, by itself, and stays that.
    pub(super) fn judge_snapshot(&mut self, number: u32, tops: &[Top], cut: Cut) -> Result<(), String> {
        let mut moments = Vec::new();
        for top in tops {
            let bytes = self.read_below(top)?;
            self.history.check_cut(cut, &[Content { disk: top.disk, first: 0, bytes: &bytes }])?;
            let below = self.disks[top.disk].images[top.old].name.clone();
            self.judge_marks_of_old(top.disk, &below, cut)?;
            moments.push(Moments { transaction: number, disk: top.disk, bytes });
        }
        // Of each disk one is enough: those on top of each other have the same.
        let other = moments.iter().find(|other| other.disk != moments[0].disk);
        if let (Some(first), Some(second)) = (moments.first(), other) {
            let contents = [first, second].map(|one| Content { disk: one.disk, first: 0, bytes: &one.bytes });
            self.history.check_cut(cut, &contents).map_err(|why| format!("both disks: {why}"))?;
            self.ledger.check([last_tag(&first.bytes)?, last_tag(&second.bytes)?])?;
        }
        self.operator.moments.extend(moments);
        Ok(())
    }

    /// What lies below an image, read from its files alone. Where storage has failed it may not be there yet, and is read
    /// through the process.
    fn read_below(&mut self, top: &Top) -> Result<Vec<u8>, String> {
        self.report.alone += 1;
        let disk = &self.disks[top.disk];
        let old = &disk.images[top.old];
        if self.setting.may_fail() {
            return self.aside(|_| content(&self.life, old));
        }
        let node = self.life.graph.find(&old.name).ok_or("the old top is gone")?;
        demand(node.is_read_only(), || format!("{} can still be written to", old.name))?;
        let height = disk.chain.iter().position(|at| *at == top.old).ok_or("the old top is not below")?;
        let below: Vec<Found> =
            disk.chain[..=height].iter().map(|at| disk.images[*at].found(&self.life.world)).collect();
        let (bytes, leaks) = alone::read(&below).map_err(|why| format!("what is below a snapshot: {why}"))?;
        // After a crash there may be some.
        demand(leaks == 0 || self.report.ends[..2] != [0, 0], || format!("{leaks} clusters below a snapshot leak"))?;
        let file = old.file.ok_or("the old top has no file")?;
        let (name, content) = (old.name.clone(), self.life.world.content(file));
        self.operator.frozen.push(Frozen { name, file, content });
        Ok(bytes)
    }

    /// What lies below snapshots is what it was.
    pub(super) fn check_frozen(&self) -> Result<(), String> {
        for Frozen { name, file, content } in &self.operator.frozen {
            demand(self.life.world.content(*file) == *content, || format!("{name} has changed below a snapshot"))?;
        }
        Ok(())
    }

    /// A flush has ended: now and then, what a power cut would leave is looked at.
    pub(super) fn look_after_flush(&mut self, disk: usize) -> Result<(), String> {
        let before = !self.disks[disk].coming.is_empty() || self.disks[disk].other.is_some();
        let seldom = !before && !self.setting.flushes_late;
        if self.looks_left == 0 || (seldom && self.random.u8(0..8) > 0) {
            return Ok(());
        }
        self.looks_left -= 1;
        self.report.looks[usize::from(before)] += 1;
        let (world, random) = (&self.life.world, &mut self.random);
        let left = |image: &Image| {
            let content = image.file.map(|file| world.content_after_cut(file, random)).unwrap_or_default();
            image.with(content)
        };
        let judged = self.disks[disk].choose(left, |content, _| self.oracles[disk].check_stable(content));
        judged.map(drop).map_err(|why| format!("if the power failed now: {why}"))
    }

    /// A backup is concluded.
    pub(super) fn judge_backup(&mut self, at: usize) -> Result<(), String> {
        let job = &self.operator.jobs[at];
        let (disk, id) = (job.disk, &job.id);
        match &job.outcome {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                return demand(self.setting.may_fail(), || format!("{id}: nothing explains '{error}'"));
            }
            None => return Err(format!("{id} is concluded without a result")),
        }
        let cut = job.cut.ok_or_else(|| format!("{id} has ended before it was begun"))?;
        let bytes = self.life.world.content(job.target);
        let judged = self.history.check_cut(cut, &[Content { disk, first: 0, bytes: &bytes }]);
        judged.map_err(|why| format!("{id}: {why}"))?;
        let of_both = |moment: &&Moments| moment.transaction == job.transaction && moment.disk == disk;
        let same = self.operator.moments.iter().find(of_both).is_none_or(|moment| moment.bytes == bytes);
        demand(same, || format!("{id} is not of the moment at which an image was put on top"))?;
        self.report.backups += 1;
        Ok(())
    }

    /// An image is no longer on top: its bitmap marks what was written as long as it was.
    fn judge_marks_of_old(&mut self, disk: usize, node: &str, cut: Cut) -> Result<(), String> {
        self.judge_marks(disk, node, MARKS, cut)?;
        self.operator.recorded.retain(|recorded| recorded.node != node);
        Ok(())
    }

    /// A bitmap has what another one had recorded until `cut`, or is that one.
    pub(super) fn judge_marks(&mut self, disk: usize, node: &str, bitmap: &str, cut: Cut) -> Result<(), String> {
        let Some(recorded) = self.operator.recorded.iter().find(|recorded| recorded.node == node) else {
            return Ok(());
        };
        let recording = Recording { from: recorded.from, to: cut };
        let node = self.life.graph.find(node).ok_or("a node is gone")?;
        let bitmap = node.points().tracking().content(bitmap).ok_or("a bitmap is gone")?;
        let granularity = bitmap.granularity().bytes();
        let marked = (0..bitmap.len().div_ceil(granularity)).map(|at| bitmap.is_marked(at * granularity)).collect();
        let mut bits = Bits { granularity, shift: 0, marked };
        if self.setting.betrayal == Some(Betrayal::LostMark)
            && let Some(mark) = bits.marked.iter_mut().rfind(|mark| **mark)
        {
            *mark = false;
        }
        self.report.bitmaps += 1;
        // What a failed flush has lost nobody knows, so that everything counts as changed then.
        let flushes_fail = self.setting.queues.faults.flush_error > 0;
        let judged = match bits.marked.iter().all(|marked| *marked) && flushes_fail {
            true => self.history.check_marked(disk, &bits, &[recording]),
            false => self.history.check_marks(disk, &bits, &[recording]),
        };
        judged.map_err(|why| format!("a bitmap of {}: {why}", node.name()))
    }
}

fn last_tag(bytes: &[u8]) -> Result<u32, String> {
    let last = bytes.len() / SECTOR - 1;
    decode(last, &bytes[last * SECTOR..])
}
