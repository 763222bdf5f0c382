//! Leaves: what a bitmap is made of at the point in time. Knows which entry each is and how coarse its way was, not
//! whose it is.

use tidemark_cbt::{Bitmap, Granularity};

/// What the bitmap of an entry holds at the point in time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The entry's place.
    pub(super) at: usize,
    /// The coarsest bitmap it has been merged through: its blocks are marked as a whole.
    pub(super) block: Granularity,
}

impl Leaf {
    /// What it is in a bitmap that it has been merged into.
    pub(super) fn through(self, granularity: Granularity) -> Self {
        Self { block: self.block.max(granularity), ..self }
    }
}

/// Merges what a leaf holds by now, in blocks as coarse as its way was.
pub(super) fn merge(target: &Bitmap, leaf: &Bitmap, block: Granularity) {
    if block <= leaf.granularity().max(target.granularity()) {
        return target.merge(leaf);
    }
    let (block, mut from) = (block.bytes(), 0);
    while let Some(run) = leaf.next_marked(from) {
        let (start, end) = (run.start - run.start % block, run.end.next_multiple_of(block));
        target.mark(start, end - start);
        from = end;
    }
}
