//! The parts of a disk that a guest writes numbered sectors to, and sets of blocks of it.

use std::ops::Range;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Sectors of a window.
pub const SECTORS: u64 = 32;

/// The windows of a disk, which do not touch each other; what is between them is zeroes.
#[derive(Clone, Debug)]
pub struct Windows(Vec<u64>);

impl Windows {
    /// Windows that begin at these bytes, in order.
    pub fn new(mut starts: Vec<u64>) -> Self {
        starts.sort_unstable();
        starts.dedup_by_key(|start| *start / (SECTORS * SECTOR));
        // Two that touch would be written to as one.
        let mut kept: Vec<u64> = Vec::new();
        for start in starts {
            if kept.last().is_none_or(|last| *last + SECTORS * SECTOR <= start) {
                kept.push(start);
            }
        }
        Self(kept)
    }

    /// Sectors of all of them.
    pub fn sectors(&self) -> usize {
        self.0.len() * usize::try_from(SECTORS).unwrap()
    }

    /// The bytes of those that are in a disk of `size` bytes, with the number of the first sector of each.
    pub fn within(&self, size: u64) -> Vec<(usize, Range<u64>)> {
        let window = |(number, start): (usize, &u64)| {
            (number * usize::try_from(SECTORS).unwrap(), *start..*start + SECTORS * SECTOR)
        };
        self.0.iter().enumerate().map(window).filter(|(_, bytes)| bytes.end <= size).collect()
    }

    /// The sectors of windows in a range of bytes, by number.
    pub fn touched(&self, bytes: &Range<u64>) -> Vec<usize> {
        let windows = self.within(u64::MAX).into_iter();
        let touched = windows.flat_map(|(first, window)| {
            let (start, end) = (bytes.start.max(window.start), bytes.end.min(window.end).max(window.start));
            let number = move |at: u64| first + usize::try_from((at - window.start) / SECTOR).unwrap();
            if start < end { number(start)..number(end) } else { 0..0 }
        });
        touched.collect()
    }

    /// The bytes of a sector.
    pub fn place(&self, sector: usize) -> Range<u64> {
        let per_window = usize::try_from(SECTORS).unwrap();
        let start = self.0[sector / per_window] + (sector % per_window) as u64 * SECTOR;
        start..start + SECTOR
    }
}

/// Blocks of a disk of any length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    block: u64,
    blocks: Vec<bool>,
}

impl Marks {
    /// None, of so many bytes each.
    pub fn new(block: u64) -> Self {
        Self { block, blocks: Vec::new() }
    }

    /// Adds the blocks that a range touches.
    pub fn mark(&mut self, bytes: &Range<u64>) {
        let at = |byte: u64| usize::try_from(byte).unwrap();
        let blocks = at(bytes.start / self.block)..at(bytes.end.div_ceil(self.block));
        if !blocks.is_empty() {
            self.blocks.resize(self.blocks.len().max(blocks.end), false);
            self.blocks[blocks].fill(true);
        }
    }

    /// Adds what others have, in blocks of any size.
    pub fn add(&mut self, other: &Self) {
        other.runs().for_each(|bytes| self.mark(&bytes));
    }

    fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let marked = self.blocks.iter().enumerate().filter(|(_, marked)| **marked);
        marked.map(|(number, _)| number as u64 * self.block..(number as u64 + 1) * self.block)
    }

    /// The first byte that is in these, in a disk of `size` bytes, and not in others with blocks as large.
    pub fn outside(&self, other: &Self, size: u64) -> Option<u64> {
        let has = |start: u64| other.blocks.get(usize::try_from(start / self.block).unwrap()) == Some(&true);
        self.runs().map(|bytes| bytes.start).find(|start| *start < size && !has(*start))
    }
}
