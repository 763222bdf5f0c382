//! What a guest has sent to each sector and when, by events of a recording: so also what may be there after a power cut
//! at any of them. Requests to the same sector may be under way side by side; then any of them may be the last.

use crate::node::qcow2::tests::model::{SECTOR, bytes};
use std::ops::Range;

/// One sector's past.
#[derive(Clone, Debug)]
struct Sector {
    /// The event at which it was sent, and the number that fills the sector; the first is what it began with.
    sent: Vec<(usize, u64)>,
    /// What was sent before this has been overwritten.
    sure: usize,
    /// From which event on what was sent before which has been overwritten for ever.
    stable: Vec<(usize, usize)>,
    /// Changes under way.
    changes: u32,
    /// Two of them have been under way side by side.
    contested: bool,
}

/// A disk's past.
#[derive(Clone, Debug)]
pub struct Past {
    sectors: Vec<Sector>,
    /// From which event on it has at least so many sectors.
    lengths: Vec<(usize, usize)>,
}

impl Past {
    /// A disk with this content.
    pub fn new(content: &[u64]) -> Self {
        let sector = |value: &u64| Sector {
            sent: vec![(0, *value)],
            sure: 0,
            stable: vec![(0, 0)],
            changes: 0,
            contested: false,
        };
        Self { sectors: content.iter().map(sector).collect(), lengths: vec![(0, content.len())] }
    }

    /// Sectors.
    pub fn len(&self) -> usize {
        self.sectors.len()
    }

    /// The disk is being made longer, by zeroes.
    pub fn begin_growth(&mut self, sectors: usize, event: usize) {
        let zero = Sector { sent: vec![(event, 0)], sure: 0, stable: vec![(event, 0)], changes: 0, contested: false };
        self.sectors.resize(sectors, zero);
    }

    /// It is longer, for ever.
    pub fn end_growth(&mut self, event: usize) {
        self.lengths.push((event, self.sectors.len()));
    }

    /// Whether no change of any of these is under way.
    pub fn is_idle(&self, sectors: Range<usize>) -> bool {
        self.sectors[sectors].iter().all(|sector| sector.changes == 0)
    }

    /// A change of these sectors begins.
    pub fn begin(&mut self, sectors: Range<usize>, value: u64, event: usize) {
        for sector in &mut self.sectors[sectors] {
            sector.sent.push((event, value));
            sector.contested |= sector.changes > 0;
            sector.changes += 1;
        }
    }

    /// It has ended; `sure`: what it sent is there now, unless others were under way.
    pub fn end(&mut self, sectors: Range<usize>, sure: bool) {
        for sector in &mut self.sectors[sectors] {
            if sure && !sector.contested {
                sector.sure = sector.sent.len() - 1;
            }
            sector.changes -= 1;
            sector.contested &= sector.changes > 0;
        }
    }

    /// What a flush of these that begins now covers, and what a read that begins now may find.
    pub fn covered(&self, sectors: Range<usize>) -> Vec<usize> {
        self.sectors[sectors].iter().map(|sector| sector.sure).collect()
    }

    /// What each sector may hold now.
    pub fn now(&self) -> Vec<Vec<u64>> {
        let values = |sector: &Sector| sector.sent[sector.sure..].iter().map(|(_, value)| *value).collect();
        self.sectors.iter().map(values).collect()
    }

    /// A flush that covers this has ended well.
    pub fn flushed(&mut self, first: usize, covered: &[usize], event: usize) {
        for (sector, covered) in self.sectors[first..].iter_mut().zip(covered) {
            if sector.stable.last().is_some_and(|(_, before)| before < covered) {
                sector.stable.push((event, *covered));
            }
        }
    }

    /// What is wrong with the bytes that a read has found from `first` on, when this was covered as it began.
    pub fn judge_read(&self, first: usize, data: &[u8], covered: &[usize]) -> Option<String> {
        let legal = |sector: &Sector, number: usize| sector.sent[covered[number]..].to_vec();
        self.judge(first, data, legal)
    }

    /// What is wrong with the whole disk after the power was cut before this event.
    pub fn judge_cut(&self, data: &[u8], event: usize) -> Option<String> {
        let length = self.lengths.iter().rev().find(|(since, _)| *since <= event).map_or(0, |(_, length)| *length);
        if data.len() < length * SECTOR {
            return Some(format!("{} bytes of {length} sectors are there", data.len()));
        }
        let legal = |sector: &Sector, _| {
            let stable = sector.stable.partition_point(|(since, _)| *since <= event);
            let from = stable.checked_sub(1).map_or(0, |last| sector.stable[last].1);
            sector.sent[from..].iter().take_while(|(sent, _)| *sent <= event).copied().collect()
        };
        self.judge(0, data, legal)
    }

    fn judge(&self, first: usize, data: &[u8], legal: impl Fn(&Sector, usize) -> Vec<(usize, u64)>) -> Option<String> {
        data.chunks(SECTOR).zip(&self.sectors[first..]).enumerate().find_map(|(number, (found, sector))| {
            let legal = legal(sector, number);
            let fits = legal.iter().any(|(_, value)| bytes(*value, 1) == found);
            let head = found.first_chunk().copied().map(u64::from_le_bytes);
            (!fits).then(|| format!("sector {}: {head:x?} is none of {legal:x?}", first + number))
        })
    }
}
