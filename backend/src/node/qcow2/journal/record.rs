//! A change of entries, and its words in the journal.

use crate::node::qcow2::entry::Geometry;

/// Words of a record.
pub(super) const WORDS: usize = 4;

/// Neighbouring guest clusters whose entries changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Number of the first guest cluster.
    pub first: u64,
    /// How many; one at least.
    pub count: u32,
    /// The first one's entry.
    pub word: u64,
    /// By how much the next one's entry is more: a cluster, or nothing.
    pub step: u32,
}

impl Change {
    /// The number of the cluster after the last.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count.into())
    }

    /// The entry of cluster number `cluster`, which is one of these.
    pub fn word_of(&self, cluster: u64) -> u64 {
        self.word.wrapping_add(cluster.wrapping_sub(self.first).wrapping_mul(self.step.into()))
    }

    /// `count` clusters in a row, from guest offset `offset` on, with entries in a row, from `word` on.
    pub fn of_run(offset: u64, count: u64, word: u64, geometry: Geometry) -> Self {
        let [count, step] = [count, geometry.cluster()].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Self { first: offset >> geometry.cluster_bits, count, word, step }
    }

    /// This and one more cluster, if it goes on like this.
    pub fn with(self, cluster: u64, word: u64, geometry: Geometry) -> Option<Self> {
        let step = match self.count {
            1 if self.word == word => 0,
            1 => u32::try_from(geometry.cluster()).ok()?,
            _ => self.step,
        };
        let longer = Self { step, count: self.count.checked_add(1)?, ..self };
        (cluster == self.end() && longer.word_of(cluster) == word).then_some(longer)
    }
}

/// A change, and where it is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) generation: u64,
    pub(super) slot: usize,
    pub(super) change: Change,
}

impl Record {
    pub(super) fn encode(self) -> [u64; WORDS] {
        let Change { first, count, word, step } = self.change;
        let extent = u64::from(count) << 32 | u64::from(step);
        [first, extent, word, self.sum([first, extent, word])]
    }

    /// The record that these words are in this place, if they are one.
    pub(super) fn decode(words: [u64; WORDS], generation: u64, slot: usize) -> Option<Self> {
        let [first, extent, word, sum] = words;
        let (count, step) = (u32::try_from(extent >> 32).ok()?, u32::try_from(extent & 0xffff_ffff).ok()?);
        let record = Self { generation, slot, change: Change { first, count, word, step } };
        (count > 0 && record.sum([first, extent, word]) == sum).then_some(record)
    }

    /// Nobody forges records here; a record that was not finished has another's words.
    fn sum(self, words: [u64; 3]) -> u64 {
        let start = self.generation ^ (self.slot as u64).rotate_left(32);
        words.into_iter().fold(start, |sum, word| {
            let mixed = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^ mixed >> 29
        })
    }
}
