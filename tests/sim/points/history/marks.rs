//! What a bitmap that records changes must and may mark.

use super::{Cut, End, History, Moment};
use crate::oracle::SECTOR;
use std::ops::Range;

/// What a bitmap marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    /// Bytes per bit.
    pub granularity: u64,
    /// Bytes of the bitmap's node before the disk begins.
    pub shift: u64,
    /// Block by block.
    pub marked: Vec<bool>,
}

/// A time in which a bitmap has recorded, between two points in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// It began here.
    pub from: Cut,
    /// It ended here.
    pub to: Cut,
}

impl Bits {
    fn blocks(&self, sectors: &Range<usize>) -> Range<usize> {
        let byte = |sector: usize| (sector * SECTOR) as u64 + self.shift;
        let block = |byte: u64| usize::try_from(byte / self.granularity).unwrap();
        block(byte(sectors.start))..block(byte(sectors.end) - 1) + 1
    }

    /// What one of two marks, in the coarser blocks of the two.
    pub fn union(&self, other: &Self) -> Self {
        let (coarse, fine) = if self.granularity < other.granularity { (other, self) } else { (self, other) };
        let mut marked = coarse.marked.clone();
        for (block, _) in fine.marked.iter().enumerate().filter(|(_, marked)| **marked) {
            let byte = block as u64 * fine.granularity;
            marked[usize::try_from(byte / coarse.granularity).unwrap()] = true;
        }
        Self { marked, ..coarse.clone() }
    }
}

impl History {
    /// Judges what a bitmap of `disk` marks after it has recorded in these times and then been left alone: every change
    /// that was made available after the reply to a begin and ended before the command of the end, and no other but
    /// those under way at a begin or an end.
    pub fn check_marks(&self, disk: usize, bits: &Bits, recordings: &[Recording]) -> Result<(), String> {
        self.check_marked(disk, bits, recordings)?;
        self.check_clear(disk, bits, recordings)
    }

    /// Judges only that every change is marked that has to be.
    pub fn check_marked(&self, disk: usize, bits: &Bits, recordings: &[Recording]) -> Result<(), String> {
        for change in self.changes.iter().filter(|change| change.disk == disk && change.start > 0) {
            let is_certain = |recording: &Recording| {
                let ended = change.end.is_some_and(|(end, how)| end < recording.to.from && how != End::Failed);
                change.start > recording.from.to && ended
            };
            let blocks = bits.blocks(&change.sectors);
            if recordings.iter().any(is_certain)
                && let Some(clear) = blocks.clone().find(|block| !bits.marked[*block])
            {
                let grain = bits.granularity;
                return Err(format!("disk {disk}: block {clear} of {grain} is not marked: {change:?}; {recordings:?}"));
            }
        }
        Ok(())
    }

    fn check_clear(&self, disk: usize, bits: &Bits, recordings: &[Recording]) -> Result<(), String> {
        let mut possible = vec![false; bits.marked.len()];
        for change in self.changes.iter().filter(|change| change.disk == disk && change.start > 0) {
            let end = change.end.map_or(Moment::MAX, |(end, _)| end);
            let overlaps = |recording: &Recording| change.start < recording.to.to && end > recording.from.from;
            if recordings.iter().any(overlaps) {
                possible[bits.blocks(&change.sectors)].fill(true);
            }
        }
        let wrong = bits.marked.iter().zip(&possible).position(|(marked, possible)| *marked && !*possible);
        wrong.map_or(Ok(()), |block| {
            let grain = bits.granularity;
            Err(format!("disk {disk}: block {block} of {grain} is marked, and nobody wrote it; {recordings:?}"))
        })
    }
}
