//! The extents of a reply to BLOCK_STATUS: neighbours that are alike are one, and there are not too many.

use crate::nbd_wire::transmission::{Extent, STATE_DIRTY};
use std::ops::Range;
use tidemark_cbt::Bitmap;

/// Extents of one reply: as with QEMU, what makes a reply of a megabyte without extended headers.
pub const EXTENTS_MAX: usize = 128 * 1024;

/// See the module's description.
pub struct Extents {
    list: Vec<Extent>,
    most: usize,
}

impl Extents {
    /// None so far; at most one if only one is wanted.
    pub fn new(only_one: bool) -> Self {
        Self { list: Vec::new(), most: if only_one { 1 } else { EXTENTS_MAX } }
    }

    /// Adds what comes next; false if there is no room for it.
    pub fn add(&mut self, len: u64, flags: u64) -> bool {
        let is_full = self.list.len() >= self.most;
        match self.list.last_mut() {
            _ if len == 0 => true,
            Some(last) if last.flags == flags => {
                last.len += len;
                true
            }
            _ if is_full => false,
            _ => {
                self.list.push(Extent { len, flags });
                true
            }
        }
    }

    /// All of them.
    pub fn list(&self) -> &[Extent] {
        &self.list
    }

    /// Adds what a bitmap marks of a range and what it does not.
    pub fn add_marks(&mut self, bits: &Bitmap, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let marked = bits.next_marked(at).unwrap_or(range.end..range.end);
            let (start, end) = (marked.start.min(range.end), marked.end.min(range.end));
            if !self.add(start - at, 0) || !self.add(end - start, STATE_DIRTY) {
                return;
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_cbt::Granularity;

    const GRAIN: u64 = 65536;

    fn of(marks: &[(u64, u64)], range: Range<u64>, only_one: bool) -> Vec<(u64, u64)> {
        let bits = Bitmap::new(100 * GRAIN + 512, Granularity::new(GRAIN).unwrap()).unwrap();
        marks.iter().for_each(|(offset, len)| bits.mark(*offset, *len));
        let mut extents = Extents::new(only_one);
        extents.add_marks(&bits, range);
        extents.list().iter().map(|extent| (extent.len, extent.flags)).collect()
    }

    #[test]
    fn marks_of_a_bitmap_are_told_to_the_byte_of_the_range() {
        let marks = [(GRAIN, 2 * GRAIN), (3 * GRAIN, 1), (10 * GRAIN, GRAIN)];
        assert_eq!(of(&marks, 0..4 * GRAIN, false), [(GRAIN, 0), (3 * GRAIN, 1)]);
        assert_eq!(of(&marks, GRAIN + 512..GRAIN + 1024, false), [(512, 1)], "inside a marked block");
        assert_eq!(of(&marks, 4 * GRAIN..12 * GRAIN, false), [(6 * GRAIN, 0), (GRAIN, 1), (GRAIN, 0)]);
        assert_eq!(of(&marks, 4 * GRAIN..12 * GRAIN, true), [(6 * GRAIN, 0)], "only one");
    }

    #[test]
    fn the_last_block_ends_with_the_disk() {
        assert_eq!(of(&[(100 * GRAIN, 1)], 99 * GRAIN..100 * GRAIN + 512, false), [(GRAIN, 0), (512, 1)]);
    }

    #[test]
    fn nothing_and_everything_are_one_extent() {
        let all = 0..100 * GRAIN + 512;
        assert_eq!(of(&[], all.clone(), false), [(all.end, 0)]);
        assert_eq!(of(&[(0, all.end)], all.clone(), false), [(all.end, 1)]);
    }

    #[test]
    fn a_reply_has_so_many_extents_and_not_more() {
        let mut extents = Extents::new(false);
        let added = (0..EXTENTS_MAX as u64 + 10).take_while(|at| extents.add(512, at % 2)).count();
        assert_eq!((added, extents.list().len()), (EXTENTS_MAX, EXTENTS_MAX));
        assert!(extents.add(512, 1), "the last one may go on");
        assert!(!extents.add(512, 0));
    }
}
