//! What of a node's changes is recorded: marks in its bitmaps, areas in its change journal.
//!
//! Shared by all roots that reach the node, and replaced when one of either changes. Most requests are to blocks that
//! others were before: those are *settled*, and one look says so, however many bitmaps there are. Invariant: what is
//! settled is marked in every bitmap, and was covered when it was. No bitmap is cleared while it is recorded in.

use std::sync::Arc;
use tidemark_cbt::journal::Areas;
use tidemark_cbt::{Bitmap, Granularity};

/// Where changes are recorded.
#[derive(Default)]
pub(super) struct Recording {
    bitmaps: Vec<Arc<Bitmap>>,
    areas: Option<Arc<Areas>>,
    /// Blocks with nothing left to record.
    settled: Option<Arc<Bitmap>>,
    /// Log2 of bytes per block of it.
    bits: u32,
}

impl Recording {
    /// Recording in these; the same as `last` if it is.
    pub(super) fn new(bitmaps: Vec<Arc<Bitmap>>, areas: Option<Arc<Areas>>, last: &Arc<Self>) -> Arc<Self> {
        let mut pairs = bitmaps.iter().zip(&last.bitmaps);
        let alike = bitmaps.len() == last.bitmaps.len() && pairs.all(|(one, other)| Arc::ptr_eq(one, other));
        if alike && areas.as_ref().map(Arc::as_ptr) == last.areas.as_ref().map(Arc::as_ptr) {
            return last.clone();
        }
        let settled = settled(&bitmaps, areas.as_ref());
        let bits = settled.as_ref().map_or(0, |settled| settled.granularity().bits());
        Arc::new(Self { bitmaps, areas, settled, bits })
    }

    /// Whether nothing is recorded.
    pub(super) fn is_none(&self) -> bool {
        self.bitmaps.is_empty() && self.areas.is_none()
    }

    /// The areas of the change journal, if there is one: nothing is written outside of those that it has.
    pub(super) fn areas(&self) -> Option<&Arc<Areas>> {
        self.areas.as_ref()
    }

    /// Whether the range may be written to as far as the change journal is concerned.
    #[inline]
    pub(super) fn covers(&self, offset: u64, len: u64) -> bool {
        match &self.areas {
            None => true,
            Some(areas) => areas.cover(offset, len),
        }
    }

    /// Whether the range is in one block, and that is settled: then it is covered, and marked everywhere.
    #[inline]
    pub(super) fn is_settled(&self, offset: u64, len: u64) -> bool {
        let one = (offset ^ offset.wrapping_add(len).wrapping_sub(1)) >> self.bits == 0;
        one && self.settled.as_ref().is_some_and(|settled| settled.has_block(offset >> self.bits))
    }

    /// Marks a range that is covered.
    #[inline(never)]
    pub(super) fn mark(&self, offset: u64, len: u64) {
        self.bitmaps.iter().for_each(|bitmap| bitmap.mark(offset, len));
        if let Some(settled) = &self.settled {
            settled.mark(offset, len);
        }
    }
}

/// Blocks as fine as the finest of what is recorded in; `None` where there are no bitmaps, or no memory.
fn settled(bitmaps: &[Arc<Bitmap>], areas: Option<&Arc<Areas>>) -> Option<Arc<Bitmap>> {
    match (bitmaps, areas) {
        // What it has marked itself is settled.
        ([bitmap], None) => Some(bitmap.clone()),
        ([first, ..], _) => {
            let blocks = bitmaps.iter().map(|bitmap| bitmap.granularity());
            let finest: Granularity = blocks.chain(areas.map(|areas| areas.area())).min()?;
            Bitmap::new(first.len(), finest).ok().map(Arc::new)
        }
        ([], _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bitmap(granularity: u64) -> Arc<Bitmap> {
        Arc::new(Bitmap::new(16 * MIB, Granularity::new(granularity).unwrap()).unwrap())
    }

    fn areas() -> Arc<Areas> {
        Arc::new(Areas::new(1, 16 * MIB, Granularity::new(MIB).unwrap()).unwrap())
    }

    fn recording(bitmaps: &[Arc<Bitmap>], areas: Option<Arc<Areas>>) -> Arc<Recording> {
        Recording::new(bitmaps.to_vec(), areas, &Arc::default())
    }

    #[test]
    fn every_bitmap_gets_every_mark_whatever_its_blocks() {
        let bitmaps = [bitmap(4096), bitmap(65536), bitmap(2 * MIB)];
        let recording = recording(&bitmaps, None);
        for (offset, len) in [(0, 4096), (4096, 4096), (4095, 2), (65536, 1), (MIB, 3 * MIB), (16 * MIB - 512, 512)] {
            recording.mark(offset, len);
            recording.mark(offset, len);
            bitmaps.iter().for_each(|bitmap| assert!(bitmap.marks_all(offset, len), "{offset} {len} {bitmap:?}"));
        }
        assert_eq!(bitmaps[0].count(), 3 * MIB + 4 * 4096, "and no more than that");
    }

    #[test]
    fn a_block_that_was_marked_before_is_covered_before_it_is_written_to() {
        let loaded = bitmap(65536);
        loaded.mark(0, 16 * MIB);
        let areas = areas();
        let recording = recording(&[loaded], Some(areas.clone()));
        assert!(!recording.covers(0, 4096), "the journal does not have it");
        areas.want(0, 1);
        areas.stable(&areas.lacking(1));
        assert!(recording.covers(0, 4096) && !recording.covers(MIB, 4096));
        recording.mark(0, 4096);
        assert!(recording.is_settled(0, 4096) && !recording.is_settled(0, 65537) && !recording.covers(MIB - 1, 2));
    }

    #[test]
    fn blocks_that_are_coarser_than_areas_settle_no_area_but_their_own() {
        let areas = areas();
        let recording = recording(&[bitmap(4 * MIB)], Some(areas.clone()));
        areas.want(0, 1);
        areas.stable(&areas.lacking(1));
        recording.mark(0, 4096);
        assert!(recording.is_settled(4096, 4096) && !recording.is_settled(MIB, 4096));
    }

    #[test]
    fn what_was_settled_is_so_until_something_is_recorded_elsewhere() {
        let (one, other) = (bitmap(65536), bitmap(65536));
        let first = recording(&[one.clone(), other.clone()], None);
        first.mark(0, 1);
        assert!(Arc::ptr_eq(&first, &Recording::new(vec![one.clone(), other], None, &first)));
        let fresh = bitmap(65536);
        let second = Recording::new(vec![one, fresh.clone()], None, &first);
        assert!(first.is_settled(0, 1) && !second.is_settled(0, 1));
        second.mark(0, 1);
        assert!(fresh.is_marked(0));
    }
}
