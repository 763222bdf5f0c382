//! Everything guests have written to several disks, and what a point in time of them may therefore hold: the judge.
//!
//! Knows requests from the guest's side only: when one was made available, when its end was seen, and how it ended. A
//! point in time lies somewhere between a command and its reply, and takes changes whole: those that ended before the
//! command are in it, those that were made available after the reply are not, and of the others any may be in it, but
//! whoever is in it brings everything that had ended before that one was made available, on any disk.

mod marks;

pub use marks::{Bits, Recording};

use crate::oracle::{SECTOR, Tag, decode};
use std::collections::BTreeSet;
use std::ops::Range;

/// A moment in the guest's life.
pub type Moment = u64;

/// Between which moments a point in time lies: the command was sent, its reply was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The command was sent.
    pub from: Moment,
    /// The reply was seen.
    pub to: Moment,
}

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It replaced what was there.
    Done,
    /// It may have replaced some of it, and whoever records changes has recorded it.
    Perhaps,
    /// It failed: it may have replaced some of it, and may be recorded.
    Failed,
}

#[derive(Clone, Debug)]
struct Change {
    disk: usize,
    sectors: Range<usize>,
    tag: Tag,
    start: Moment,
    end: Option<(Moment, End)>,
}

impl Change {
    /// Whether it had certainly replaced what was there by `moment`.
    fn is_done_by(&self, moment: Moment) -> bool {
        self.end.is_some_and(|(end, how)| end < moment && how == End::Done)
    }

    /// Whether it had ended before `moment`.
    fn is_over_by(&self, moment: Moment) -> bool {
        self.end.is_some_and(|(end, _)| end < moment)
    }
}

/// A change of the history.
pub type ChangeId = usize;

/// What one disk holds at a point in time, or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The disk.
    pub disk: usize,
    /// The first sector.
    pub first: usize,
    /// From there on.
    pub bytes: &'a [u8],
}

/// All changes of all disks.
pub struct History {
    /// By disk and sector, what has touched it.
    disks: Vec<Vec<Vec<ChangeId>>>,
    changes: Vec<Change>,
    now: Moment,
}

impl History {
    /// Disks that hold these tags, sector by sector.
    pub fn new(disks: &[Vec<Tag>]) -> Self {
        let mut history = Self { disks: Vec::new(), changes: Vec::new(), now: 0 };
        for (disk, tags) in disks.iter().enumerate() {
            history.disks.push(vec![Vec::new(); tags.len()]);
            for (sector, tag) in tags.iter().enumerate() {
                let sectors = sector..sector + 1;
                history.disks[disk][sector].push(history.changes.len());
                history.changes.push(Change { disk, sectors, tag: *tag, start: 0, end: Some((0, End::Done)) });
            }
        }
        history
    }

    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A change was made available.
    pub fn begin(&mut self, disk: usize, sectors: Range<usize>, tag: Tag) -> ChangeId {
        let (id, start) = (self.changes.len(), self.tick());
        self.disks[disk][sectors.clone()].iter_mut().for_each(|touched| touched.push(id));
        self.changes.push(Change { disk, sectors, tag, start, end: None });
        id
    }

    /// The guest has seen the end of a change.
    pub fn end(&mut self, id: ChangeId, how: End) {
        self.changes[id].end = Some((self.tick(), how));
    }

    /// Judges what a read has found that was made available at `start` and has just ended.
    pub fn check_read(&self, start: Moment, content: Content<'_>) -> Result<(), String> {
        for (sector, bytes) in content.sectors() {
            self.check_sector(content.disk, sector, bytes, Moment::MAX, |id| self.changes[id].is_done_by(start))?;
        }
        Ok(())
    }

    /// Judges what was restored of one point in time.
    pub fn check_cut(&self, cut: Cut, contents: &[Content<'_>]) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for content in contents {
            for (sector, bytes) in content.sectors() {
                // Zeroes come from anywhere.
                let tag = decode(sector, bytes).map_err(|why| format!("disk {}: {why}", content.disk))?;
                let may_be_in = |change: &Change| tag != 0 && change.tag == tag && change.start < cut.to;
                seen.extend(self.touched(content.disk, sector).find(|id| may_be_in(&self.changes[*id])));
            }
        }
        let newest = seen.iter().map(|id| self.changes[*id].start).max().unwrap_or(0);
        let certain = cut.from.max(newest);
        let inside = |id: ChangeId| {
            let change = &self.changes[id];
            change.is_done_by(certain) || (seen.contains(&id) && change.is_done_by(Moment::MAX))
        };
        for content in contents {
            for (sector, bytes) in content.sectors() {
                let checked = self.check_sector(content.disk, sector, bytes, cut.to, inside);
                checked.map_err(|why| format!("{why}; {cut:?}, certain until {certain}"))?;
            }
        }
        Ok(())
    }

    /// Whether a sector was certainly changed after `from` and before `to`.
    pub fn is_changed_within(&self, disk: usize, sector: usize, from: Moment, to: Moment) -> bool {
        let mut changes = self.touched(disk, sector).map(|id| &self.changes[id]);
        changes.any(|change| change.start > from && change.is_done_by(to))
    }

    /// Whether a sector may hold this: something made available before `until` that no change that is `inside` has
    /// certainly replaced.
    fn check_sector(
        &self,
        disk: usize,
        sector: usize,
        bytes: &[u8],
        until: Moment,
        inside: impl Fn(ChangeId) -> bool,
    ) -> Result<(), String> {
        let tag = decode(sector, bytes).map_err(|why| format!("disk {disk}: {why}"))?;
        let is_replaced =
            |old: &Change| self.touched(disk, sector).any(|new| old.is_over_by(self.changes[new].start) && inside(new));
        let changes = self.touched(disk, sector).map(|id| &self.changes[id]);
        let mut candidates = changes.filter(|change| change.tag == tag && change.start < until);
        if candidates.any(|change| !is_replaced(change)) {
            return Ok(());
        }
        let all: Vec<&Change> = self.touched(disk, sector).map(|id| &self.changes[id]).collect();
        Err(format!("disk {disk}: sector {sector} holds change {tag}, which it may not: {all:?}"))
    }

    fn touched(&self, disk: usize, sector: usize) -> impl Iterator<Item = ChangeId> {
        self.disks[disk][sector].iter().copied()
    }
}

impl<'a> Content<'a> {
    fn sectors(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        (self.first..).zip(self.bytes.chunks(SECTOR))
    }
}

#[cfg(test)]
mod tests;
