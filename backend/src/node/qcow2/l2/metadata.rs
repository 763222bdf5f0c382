//! Where an image's metadata is, so that nothing else leads there: QEMU's overlap checks, made once per entry.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

/// What metadata is; the names are those of QEMU's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// The first cluster.
    Header,
    /// The table of the L2 tables that the guest's disk is mapped by.
    ActiveL1,
    /// One of these.
    ActiveL2,
    /// The table of the refcount blocks.
    RefcountTable,
    /// One of these.
    RefcountBlock,
    /// The table of the internal snapshots.
    SnapshotTable,
    /// The L1 table of one of these.
    InactiveL1,
    /// An L2 table that only snapshots have.
    InactiveL2,
    /// The table of the persistent bitmaps.
    BitmapDirectory,
}

impl Structure {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "qcow2_header",
            Self::ActiveL1 => "active L1 table",
            Self::ActiveL2 => "active L2 table",
            Self::RefcountTable => "refcount table",
            Self::RefcountBlock => "refcount block",
            Self::SnapshotTable => "snapshot table",
            Self::InactiveL1 => "inactive L1 table",
            Self::InactiveL2 => "inactive L2 table",
            Self::BitmapDirectory => "bitmap directory",
        }
    }
}

/// Ends and kinds by start; no range touches another of its kind or shares a byte with any.
type Ranges = BTreeMap<u64, (u64, Structure)>;

/// Ranges of the file, in bytes, that hold metadata.
#[derive(Debug, Default)]
pub struct Metadata {
    ranges: RwLock<Ranges>,
    /// How many have been added.
    added: AtomicU64,
    /// Where the last cluster ends that was ever in use.
    end: AtomicU64,
    /// Made of clusters that were used before, and nobody has looked yet whether something leads there.
    new: Mutex<Vec<Range<u64>>>,
    /// L2 tables that only snapshots have are among the ranges.
    guards_inactive: AtomicBool,
}

impl Metadata {
    /// Of a file of this length.
    pub fn of_file(length: u64) -> Self {
        Self { end: AtomicU64::new(length), ..Self::default() }
    }

    /// Adds a range; false, and nothing added, if part of it is metadata already. An empty range is always added.
    pub fn add(&self, structure: Structure, range: Range<u64>) -> bool {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if is_empty(&range) {
            return true;
        }
        if overlapping(&ranges, &range).is_some() {
            return false;
        }
        self.added.fetch_add(1, Ordering::SeqCst);
        // What touches becomes one: tables often stand side by side.
        let mut end = range.end;
        if ranges.get(&range.end).is_some_and(|(_, kind)| *kind == structure) {
            end = ranges.remove(&range.end).map_or(end, |(end, _)| end);
        }
        let before = ranges.range_mut(..range.start).next_back();
        match before.filter(|(_, (before, kind))| *before == range.start && *kind == structure) {
            Some((_, (before, _))) => *before = end,
            None => drop(ranges.insert(range.start, (end, structure))),
        }
        true
    }

    /// Adds a range of clusters that have just been taken; `fresh`: for the first time, so that nothing leads there.
    /// As [`Metadata::add`].
    pub fn make(&self, structure: Structure, range: Range<u64>, fresh: bool) -> bool {
        let added = self.add(structure, range.clone());
        if added && !fresh {
            self.new.lock().unwrap_or_else(PoisonError::into_inner).push(range);
        }
        added
    }

    /// What was made since this was asked last of clusters that were used before.
    pub fn take_new(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a range out that is no metadata any more.
    pub fn remove(&self, range: Range<u64>) {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if is_empty(&range) {
            return;
        }
        while let Some((start, end, kind)) = last_before(&ranges, range.end).filter(|(_, end, _)| *end > range.start) {
            ranges.remove(&start);
            if start < range.start {
                ranges.insert(start, (range.start, kind));
            }
            if end > range.end {
                ranges.insert(range.end, (end, kind));
            }
        }
    }

    /// What metadata some byte of a range is, if any is.
    pub fn overlapping(&self, range: Range<u64>) -> Option<Structure> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        if is_empty(&range) { None } else { overlapping(&ranges, &range) }
    }

    /// Whether any byte of a range is metadata.
    pub fn overlaps(&self, range: Range<u64>) -> bool {
        self.overlapping(range).is_some()
    }

    /// From now on L2 tables that only snapshots have are to be added.
    pub fn guard_inactive(&self) {
        self.guards_inactive.store(true, Ordering::Release);
    }

    /// Whether they are.
    pub fn guards_inactive(&self) -> bool {
        self.guards_inactive.load(Ordering::Acquire)
    }

    /// A number that changes with each range that is added.
    pub fn additions(&self) -> u64 {
        self.added.load(Ordering::SeqCst)
    }

    /// Where clusters end that entries can lead to: those in the file when it was opened, and those taken since.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::SeqCst)
    }

    /// Clusters up to here are being taken.
    pub fn reach(&self, end: u64) {
        self.end.fetch_max(end, Ordering::SeqCst);
    }
}

fn is_empty(range: &Range<u64>) -> bool {
    range.start >= range.end
}

/// The last range that starts before `end`.
fn last_before(ranges: &Ranges, end: u64) -> Option<(u64, u64, Structure)> {
    ranges.range(..end).next_back().map(|(start, (end, kind))| (*start, *end, *kind))
}

fn overlapping(ranges: &Ranges, range: &Range<u64>) -> Option<Structure> {
    last_before(ranges, range.end).filter(|(_, end, _)| *end > range.start).map(|(_, _, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::byte_count;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_where_they_were_put(steps in proptest::collection::vec((0u8..3, 0u64..40, 0u64..8), 1..60)) {
            let (metadata, mut model) = (Metadata::default(), [None; 64]);
            for (what, start, len) in steps {
                let range = start..start + len;
                let cells = byte_count(start)..byte_count(start + len);
                let free = model[cells.clone()].iter().all(Option::is_none);
                prop_assert_eq!(metadata.overlaps(range.clone()), !free);
                let structure = if what == 1 { Structure::ActiveL2 } else { Structure::RefcountBlock };
                if what == 0 {
                    metadata.remove(range);
                    model[cells].fill(None);
                } else if metadata.add(structure, range) {
                    prop_assert!(free);
                    model[cells].fill(Some(structure));
                } else {
                    prop_assert!(!free);
                }
                for (at, cell) in model.iter().enumerate() {
                    prop_assert_eq!(metadata.overlapping(at as u64..at as u64 + 1), *cell, "{}", at);
                }
            }
        }
    }
}
