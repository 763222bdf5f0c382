//! Where an image's metadata is, so that nothing else leads there: QEMU's overlap checks, made once per entry.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

/// Ranges of the file, in bytes, that hold metadata.
#[derive(Debug, Default)]
pub struct Metadata {
    /// Ends by start; none touches another.
    ranges: RwLock<BTreeMap<u64, u64>>,
}

impl Metadata {
    /// Adds a range; false, and nothing added, if part of it is metadata already. An empty range is always added.
    pub fn add(&self, range: Range<u64>) -> bool {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if is_empty(&range) {
            return true;
        }
        if overlaps(&ranges, &range) {
            return false;
        }
        // What touches becomes one: tables often stand side by side.
        let end = ranges.remove(&range.end).unwrap_or(range.end);
        match ranges.range_mut(..range.start).next_back().filter(|before| *before.1 == range.start) {
            Some((_, before)) => *before = end,
            None => drop(ranges.insert(range.start, end)),
        }
        true
    }

    /// Takes a range out that is no metadata any more.
    pub fn remove(&self, range: Range<u64>) {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if is_empty(&range) {
            return;
        }
        while let Some((start, end)) = first_before(&ranges, range.end).filter(|(_, end)| *end > range.start) {
            ranges.remove(&start);
            if start < range.start {
                ranges.insert(start, range.start);
            }
            if end > range.end {
                ranges.insert(range.end, end);
            }
        }
    }

    /// Whether any byte of a range is metadata.
    pub fn overlaps(&self, range: Range<u64>) -> bool {
        !is_empty(&range) && overlaps(&self.ranges.read().unwrap_or_else(PoisonError::into_inner), &range)
    }
}

fn is_empty(range: &Range<u64>) -> bool {
    range.start >= range.end
}

/// The last range that starts before `end`.
fn first_before(ranges: &BTreeMap<u64, u64>, end: u64) -> Option<(u64, u64)> {
    ranges.range(..end).next_back().map(|(start, end)| (*start, *end))
}

fn overlaps(ranges: &BTreeMap<u64, u64>, range: &Range<u64>) -> bool {
    first_before(ranges, range.end).is_some_and(|(_, end)| end > range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::byte_count;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_where_they_were_put(steps in proptest::collection::vec((any::<bool>(), 0u64..40, 0u64..8), 1..60)) {
            let (metadata, mut model) = (Metadata::default(), [false; 64]);
            for (add, start, len) in steps {
                let range = start..start + len;
                let cells = byte_count(start)..byte_count(start + len);
                let free = !model[cells.clone()].contains(&true);
                prop_assert_eq!(metadata.overlaps(range.clone()), !free);
                if !add {
                    metadata.remove(range);
                    model[cells].fill(false);
                } else if metadata.add(range) {
                    prop_assert!(free);
                    model[cells].fill(true);
                } else {
                    prop_assert!(!free);
                }
                for (at, cell) in model.iter().enumerate() {
                    prop_assert_eq!(metadata.overlaps(at as u64..at as u64 + 1), *cell, "{}", at);
                }
            }
        }
    }
}
