//! What the tables of an image say that the file does not have yet, for the process that comes after this one.
//!
//! Tables are written back when a guest flushes. Until then an entry is in this process only; a guest that outlives the
//! process would find its writes gone, though they had ended. So each change of an entry is noted in memory that
//! outlives the process, before the request ends. It is lost when the machine is: that a guest expects of what it has
//! not flushed. No I/O, and nothing to be done where no entry changes.
//!
//! There are two halves. A write-back cycle begins by turning to the other half and ends by dropping the first, which
//! it has made needless. Invariant: a change is noted in a half that is not dropped by a cycle that does not have it.
//! Changing an entry and noting it are one step, therefore, and turning is another.

mod attach;
mod file;
mod record;
mod recover;
mod runs;
mod sweep;
pub(in crate::node::qcow2) mod tie;

pub(in crate::node::qcow2) use attach::path_of;
pub use file::{JournalError, Place};
pub use record::Change;

use crate::io::SharedWords;
use crate::node::changes::Shared;
use record::{Record, WORDS};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Changes that are noted in one step, at most.
pub const MOST: usize = 256;

/// Records of a half; before it, whose journal it is.
const SLOTS: usize = 4;
/// The namespace of paths that the image's is in.
const NAMESPACE: usize = 5;
/// Numbers of the halves' generations; 0 for one that was dropped.
const GENERATIONS: usize = 6;
/// The image's path.
const IMAGE: Range<usize> = 8..520;
/// Its file.
const FILE: Range<usize> = 520..522;
/// Words behind the records, for a change journal.
const CHANGES: usize = FILE.end;
/// Where the records begin.
const RECORDS: usize = CHANGES + 1;

/// A journal in use.
#[derive(Debug)]
pub struct Journal {
    words: Arc<SharedWords>,
    path: PathBuf,
    /// Records of a half.
    slots: usize,
    tail: Mutex<Tail>,
}

/// Where the next record goes.
#[derive(Clone, Copy, Debug)]
struct Tail {
    half: usize,
    slot: usize,
    generation: u64,
}

/// The half has no room: a cycle has to come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Journal {
    /// Notes changes, [`MOST`] at most, and makes them by `change`: no cycle begins between the two.
    ///
    /// # Errors
    /// [`Full`]; nothing is noted or changed.
    pub fn note(&self, changes: &[Change], change: impl FnOnce()) -> Result<(), Full> {
        let mut tail = self.tail();
        if tail.slot + changes.len() > self.slots {
            return Err(Full);
        }
        for noted in changes {
            let record = Record { generation: tail.generation, slot: tail.slot, change: *noted };
            let at = self.at(tail.half, tail.slot);
            // In order: what makes a record valid is its last word.
            record.encode().into_iter().enumerate().for_each(|(word, value)| self.words.store(at + word, value));
            tail.slot += 1;
        }
        change();
        Ok(())
    }

    /// A cycle begins that will have all that was noted before. If the last one has failed, its half is still needed,
    /// and this one goes on.
    pub fn begin_cycle(&self) {
        let mut tail = self.tail();
        let other = 1 - tail.half;
        if self.words.load(GENERATIONS + other) == 0 {
            self.turn_to(&mut tail, other);
        }
    }

    /// That cycle has ended well.
    pub fn end_cycle(&self) {
        let tail = self.tail();
        self.words.store(GENERATIONS + 1 - tail.half, 0);
    }

    /// All that was noted and not dropped, in order.
    pub fn changes(&self) -> Vec<Change> {
        let generation = |half: &usize| self.words.load(GENERATIONS + *half);
        let mut halves: Vec<usize> = (0..2).filter(|half| generation(half) != 0).collect();
        halves.sort_by_key(generation);
        halves.into_iter().flat_map(|half| self.half(half, generation(&half))).collect()
    }

    /// Where a change journal is that goes with this one, if it has room for one.
    pub fn changes_medium(&self) -> Option<Shared> {
        let count = usize::try_from(self.words.load(CHANGES)).ok().filter(|count| *count > 0)?;
        Some(Shared { words: self.words.clone(), first: RECORDS + 2 * self.slots * WORDS, count })
    }

    fn turn_to(&self, tail: &mut Tail, half: usize) {
        *tail = Tail { half, slot: 0, generation: tail.generation + 1 };
        self.words.store(GENERATIONS + half, tail.generation);
    }

    /// The records of a half, up to the first that was not written as a whole.
    fn half(&self, half: usize, generation: u64) -> impl Iterator<Item = Change> {
        let record = move |slot| {
            let at = self.at(half, slot);
            let words: [u64; WORDS] = std::array::from_fn(|word| self.words.load(at + word));
            Record::decode(words, generation, slot).map(|record| record.change)
        };
        (0..self.slots).map_while(record)
    }

    fn at(&self, half: usize, slot: usize) -> usize {
        RECORDS + (half * self.slots + slot) * WORDS
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
