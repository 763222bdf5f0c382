//! Refcount blocks in memory: as many as there is room for, those that changed in any case.
//!
//! Does no I/O. A block leaves only when the file has what it says: neither changed nor being written.

use super::width::Width;
use std::collections::HashMap;
use std::ops::Range;

/// What is written of a block is rounded to this many bytes.
const PIECE: usize = 4096;

/// One block.
pub(super) struct Block {
    bytes: Vec<u8>,
    /// What the file does not have.
    dirty: Option<Range<usize>>,
    writing: bool,
    used: u64,
}

impl Block {
    pub(super) fn get(&self, width: Width, number: usize) -> u64 {
        width.get(&self.bytes, number)
    }

    /// The first of these numbers with such a count.
    pub(super) fn find(&self, width: Width, mut numbers: Range<usize>, which: fn(u64) -> bool) -> Option<usize> {
        numbers.find(|number| which(width.get(&self.bytes, *number)))
    }

    pub(super) fn set(&mut self, width: Width, number: usize, count: u64) {
        width.set(&mut self.bytes, number, count);
        self.mark(width.bytes(number));
    }

    pub(super) fn mark_dirty(&mut self) {
        self.mark(0..self.bytes.len());
    }

    fn mark(&mut self, bytes: Range<usize>) {
        self.dirty = Some(match self.dirty.take() {
            Some(dirty) => dirty.start.min(bytes.start)..dirty.end.max(bytes.end),
            None => bytes,
        });
    }

    fn may_leave(&self) -> bool {
        self.dirty.is_none() && !self.writing
    }
}

/// What is to be written of a block, as it was when it was copied.
pub(super) struct Piece {
    /// The block's number.
    pub(super) region: usize,
    /// Bytes into it.
    pub(super) at: usize,
    /// From there on.
    pub(super) bytes: Vec<u8>,
}

/// The blocks in memory, by number.
pub(super) struct Blocks {
    blocks: HashMap<usize, Block>,
    limit: usize,
    uses: u64,
}

impl Blocks {
    /// Room for `limit` blocks.
    pub(super) fn new(limit: usize) -> Self {
        Self { blocks: HashMap::new(), limit, uses: 0 }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.make_room(&(0..0), 0);
    }

    pub(super) fn has(&self, region: usize) -> bool {
        self.blocks.contains_key(&region)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn get(&mut self, region: usize) -> Option<&mut Block> {
        self.uses += 1;
        let block = self.blocks.get_mut(&region)?;
        block.used = self.uses;
        Some(block)
    }

    /// Adds a block as the file has it, others but those of `keep` making room.
    pub(super) fn add(&mut self, region: usize, bytes: Vec<u8>, keep: &Range<usize>) {
        self.make_room(keep, 1);
        self.insert(region, bytes, None);
    }

    /// Adds a block of zeroes that the file does not have.
    pub(super) fn add_new(&mut self, region: usize, len: usize) {
        self.insert(region, vec![0; len], Some(0..len));
    }

    /// Forgets a block, whatever the file does not have of it.
    pub(super) fn remove(&mut self, region: usize) {
        self.blocks.remove(&region);
    }

    fn insert(&mut self, region: usize, bytes: Vec<u8>, dirty: Option<Range<usize>>) {
        self.uses += 1;
        self.blocks.insert(region, Block { bytes, dirty, writing: false, used: self.uses });
    }

    fn make_room(&mut self, keep: &Range<usize>, more: usize) {
        while self.blocks.len() + more > self.limit {
            let may_leave = |(region, block): &(&usize, &Block)| block.may_leave() && !keep.contains(region);
            let oldest = self.blocks.iter().filter(may_leave).min_by_key(|(_, block)| block.used);
            let Some(region) = oldest.map(|(region, _)| *region) else { return };
            self.blocks.remove(&region);
        }
    }

    /// Whether those that cannot leave fill the room.
    pub(super) fn are_too_many(&self) -> bool {
        self.blocks.len() > self.limit / 2
            && self.blocks.values().filter(|block| !block.may_leave()).count() > self.limit / 2
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.blocks.values().any(|block| block.dirty.is_some() || block.writing)
    }

    /// Copies all that changed; it counts as being written from now on.
    pub(super) fn begin_writing(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (region, block) in &mut self.blocks {
            let Some(dirty) = block.dirty.take() else { continue };
            block.writing = true;
            let at = dirty.start / PIECE * PIECE;
            let end = dirty.end.next_multiple_of(PIECE).min(block.bytes.len());
            let bytes = block.bytes.get(at..end).unwrap_or_default().to_vec();
            pieces.push(Piece { region: *region, at, bytes });
        }
        pieces.sort_unstable_by_key(|piece| piece.region);
        pieces
    }

    /// The file has these pieces, or (not `done`) may not have them.
    pub(super) fn end_writing(&mut self, pieces: &[Piece], done: bool) {
        for piece in pieces {
            let Some(block) = self.blocks.get_mut(&piece.region) else { continue };
            block.writing = false;
            if !done {
                block.mark(piece.at..piece.at + piece.bytes.len());
            }
        }
        self.make_room(&(0..0), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_does_not_have_stays_and_the_longest_unused_of_the_rest_leaves() {
        let mut blocks = Blocks::new(2);
        blocks.add(0, vec![0; 512], &(0..0));
        blocks.get(0).unwrap().set(Width(4), 7, 1);
        blocks.add(1, vec![0; 512], &(0..0));
        blocks.add(2, vec![0; 512], &(0..0));
        assert_eq!([0, 1, 2].map(|region| blocks.has(region)), [true, false, true]);
        let pieces = blocks.begin_writing();
        blocks.add(3, vec![0; 512], &(2..3));
        assert_eq!([0, 2, 3].map(|region| blocks.has(region)), [true, true, true], "one is written, one kept");
        blocks.end_writing(&pieces, true);
        assert_eq!([0, 2, 3].map(|region| blocks.has(region)), [false, true, true]);
    }

    #[test]
    fn what_could_not_be_written_is_written_again_with_what_has_changed_since() {
        let mut blocks = Blocks::new(1);
        blocks.add(0, vec![0; 65536], &(0..0));
        blocks.get(0).unwrap().set(Width(3), 5000, 1);
        let pieces = blocks.begin_writing();
        assert_eq!(pieces.iter().map(|piece| (piece.at, piece.bytes.len())).collect::<Vec<_>>(), [(4096, 4096)]);
        blocks.get(0).unwrap().set(Width(3), 9000, 1);
        blocks.end_writing(&pieces, false);
        let pieces = blocks.begin_writing();
        assert_eq!(pieces.iter().map(|piece| (piece.at, piece.bytes.len())).collect::<Vec<_>>(), [(4096, 8192)]);
        assert_eq!((pieces[0].bytes[904], pieces[0].bytes[4904]), (1, 1));
        blocks.end_writing(&pieces, true);
        assert!(!blocks.is_dirty() && blocks.begin_writing().is_empty());
    }
}
