//! A bitmap of dirty blocks that any number of threads mark at once.
//!
//! Two levels: a bit per block, and a bit per word of them that may be set, so that a sparse bitmap of a large disk is
//! walked by its second level. Memory is zero pages until something is marked. Marks are relaxed: a bitmap is read after
//! the writes that marked it are known to have ended, and that is what orders the two; see [`Bitmap::mark_live`] for
//! one that is read while it is marked.

use crate::sync::{AtomicU64, Ordering, fence};
use crate::{Granularity, OutOfMemory, zeroed};
use std::ops::Range;

/// Which blocks of a disk have changed.
pub struct Bitmap {
    len: u64,
    granularity: Granularity,
    words: Box<[AtomicU64]>,
    /// A bit per word: clear only if the word is zero, or is being marked by somebody who sets it next.
    summary: Box<[AtomicU64]>,
}

impl Bitmap {
    /// A clean bitmap for a disk of `len` bytes.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(len: u64, granularity: Granularity) -> Result<Self, OutOfMemory> {
        let words = len.div_ceil(granularity.bytes()).div_ceil(64);
        Ok(Self { len, granularity, words: zeroed(words)?, summary: zeroed(words.div_ceil(64))? })
    }

    /// Bytes of the disk.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes per bit.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Marks every block that the range touches; what lies beyond the end is ignored.
    #[inline]
    pub fn mark(&self, offset: u64, len: u64) {
        let Some((first, last)) = self.blocks(offset, len) else { return };
        if first / 64 == last / 64 {
            self.set(first / 64, mask(first % 64, last % 64), Ordering::Relaxed);
        } else {
            self.mark_words(first, last, Ordering::Relaxed);
        }
    }

    /// [`Bitmap::mark`] for a bitmap from which [`Bitmap::take`] takes meanwhile. What was written before this is read
    /// by a taker that finds the bit, or finds it set again.
    pub fn mark_live(&self, offset: u64, len: u64) {
        // A taker clears the bit and then reads. A bit seen as set here, after the fence, has not been taken yet by
        // anybody who could have missed what was written before the fence.
        fence(Ordering::SeqCst);
        if let Some((first, last)) = self.blocks(offset, len) {
            self.mark_words(first, last, Ordering::SeqCst);
        }
    }

    #[cold]
    fn mark_words(&self, first: u64, last: u64, order: Ordering) {
        for (word, mask) in words(first, last) {
            self.set(word, mask, order);
        }
    }

    #[inline]
    fn set(&self, word: u64, mask: u64, order: Ordering) {
        let target = &self.words[index(word)];
        if target.load(Ordering::Relaxed) & mask != mask && target.fetch_or(mask, order) == 0 {
            self.summary[index(word / 64)].fetch_or(1 << (word % 64), order);
        }
    }

    /// Whether the block of this number is marked; past the end none is.
    #[inline]
    pub fn has_block(&self, block: u64) -> bool {
        self.words.get(index(block / 64)).is_some_and(|word| word.load(Ordering::Relaxed) >> (block % 64) & 1 == 1)
    }

    /// Whether the block at `offset` is marked.
    pub fn is_marked(&self, offset: u64) -> bool {
        let block = offset >> self.granularity.bits();
        offset < self.len && self.word(block / 64) >> (block % 64) & 1 == 1
    }

    /// Whether nothing is marked.
    pub fn is_empty(&self) -> bool {
        self.next_marked(0).is_none()
    }

    /// Bytes marked: whole blocks, also at the end of the disk.
    pub fn count(&self) -> u64 {
        let bits: u64 = self.filled_words().map(|(_, bits)| u64::from(bits.count_ones())).sum();
        bits << self.granularity.bits()
    }

    /// The next run of marked blocks that ends after `from`, in bytes, cut off at `from` and at the end of the disk.
    pub fn next_marked(&self, from: u64) -> Option<Range<u64>> {
        let (bits, blocks) = (self.granularity.bits(), self.block_count());
        // The last block may begin before and end after the end of the disk.
        let first = (from < self.len).then(|| self.find(from >> bits, blocks))??;
        let end = self.find_clear(first, blocks);
        Some((first << bits).max(from)..(end << bits).min(self.len))
    }

    /// The first byte at or after `from` whose block is not marked.
    pub fn next_clear(&self, from: u64) -> Option<u64> {
        let (bits, blocks) = (self.granularity.bits(), self.block_count());
        let clear = self.find_clear(from >> bits, blocks);
        (clear < blocks).then(|| (clear << bits).max(from)).filter(|at| *at < self.len)
    }

    /// Whether every block that the range touches is marked.
    pub fn marks_all(&self, offset: u64, len: u64) -> bool {
        let blocks = self.blocks(offset, len);
        blocks.is_none_or(|(first, last)| words(first, last).all(|(word, mask)| self.word(word) & mask == mask))
    }

    /// Clears every block that the range touches; whether any was marked. What is read after this is at least as new as
    /// what the mark stood for.
    pub fn take(&self, offset: u64, len: u64) -> bool {
        let Some((first, last)) = self.blocks(offset, len) else { return false };
        let mut any = false;
        for (word, mask) in words(first, last) {
            let target = &self.words[index(word)];
            let old = target.fetch_and(!mask, Ordering::SeqCst);
            any |= old & mask != 0;
            if old != 0 && old & !mask == 0 {
                let summary = &self.summary[index(word / 64)];
                summary.fetch_and(!(1 << (word % 64)), Ordering::SeqCst);
                // Somebody may have marked between the two.
                if target.load(Ordering::SeqCst) != 0 {
                    summary.fetch_or(1 << (word % 64), Ordering::SeqCst);
                }
            }
        }
        // What is read from here on is not older than a mark that was skipped because the bit was still set.
        fence(Ordering::SeqCst);
        any
    }

    /// Clears every block that the range touches.
    pub fn clear_range(&self, offset: u64, len: u64) {
        self.take(offset, len);
    }

    /// Marks what `other` marks, rounded out to whole blocks. Both may be marked meanwhile.
    pub fn merge(&self, other: &Bitmap) {
        if self.granularity == other.granularity && self.len == other.len {
            other.filled_words().for_each(|(word, bits)| self.set(word, bits, Ordering::Relaxed));
            return;
        }
        let mut from = 0;
        while let Some(run) = other.next_marked(from) {
            self.mark(run.start, run.end - run.start);
            from = run.end;
        }
    }

    /// The same marks for a disk of another length: new blocks are clean, lost ones forgotten.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn resized(&self, len: u64) -> Result<Self, OutOfMemory> {
        let new = Self::new(len, self.granularity)?;
        let mut from = 0;
        while let Some(run) = self.next_marked(from) {
            new.mark(run.start, run.end - run.start);
            from = run.end;
        }
        Ok(new)
    }

    /// First and last block that a range touches.
    #[inline]
    fn blocks(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let end = offset.saturating_add(len).min(self.len);
        let bits = self.granularity.bits();
        (offset < end).then(|| (offset >> bits, (end - 1) >> bits))
    }

    fn block_count(&self) -> u64 {
        self.len.div_ceil(self.granularity.bytes())
    }

    fn word(&self, word: u64) -> u64 {
        self.words.get(index(word)).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The words that are not zero, by the summary.
    fn filled_words(&self) -> impl Iterator<Item = (u64, u64)> {
        let filled = self.summary.iter().enumerate();
        let words =
            filled.flat_map(|(at, bits)| ones(bits.load(Ordering::Relaxed)).map(move |bit| at as u64 * 64 + bit));
        words.map(|word| (word, self.word(word))).filter(|(_, bits)| *bits != 0)
    }

    /// The first marked block from `first` on, before `end`.
    fn find(&self, first: u64, end: u64) -> Option<u64> {
        let within = |block: &u64| *block < end;
        let bits = self.word(first / 64) & (u64::MAX << (first % 64));
        if bits != 0 {
            return Some(first / 64 * 64 + u64::from(bits.trailing_zeros())).filter(within);
        }
        let mut word = first / 64 + 1;
        while word * 64 < end {
            let filled = self.summary[index(word / 64)].load(Ordering::Relaxed) & (u64::MAX << (word % 64));
            if filled == 0 {
                word = (word / 64 + 1) * 64;
                continue;
            }
            word = word / 64 * 64 + u64::from(filled.trailing_zeros());
            let bits = self.word(word);
            if bits != 0 {
                return Some(word * 64 + u64::from(bits.trailing_zeros())).filter(within);
            }
            word += 1;
        }
        None
    }

    /// The first block from `first` on that is not marked; `end` if there is none before it.
    fn find_clear(&self, first: u64, end: u64) -> u64 {
        let mut word = first / 64;
        let mut clear = !self.word(word) & (u64::MAX << (first % 64));
        while clear == 0 {
            word += 1;
            if word * 64 >= end {
                return end;
            }
            clear = !self.word(word);
        }
        (word * 64 + u64::from(clear.trailing_zeros())).min(end)
    }
}

impl std::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitmap({} of {} bytes, {} a bit)", self.count(), self.len, self.granularity.bytes())
    }
}

/// The words from block `first` to block `last`, each with the mask of those blocks.
fn words(first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    (first / 64..=last / 64).map(move |word| {
        let low = if word == first / 64 { first % 64 } else { 0 };
        let high = if word == last / 64 { last % 64 } else { 63 };
        (word, mask(low, high))
    })
}

/// Bits `low` to `high` of a word.
#[inline]
fn mask(low: u64, high: u64) -> u64 {
    (u64::MAX << low) & (u64::MAX >> (63 - high))
}

fn ones(mut bits: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| u64::from(bits.trailing_zeros()))?;
        bits &= bits - 1;
        Some(bit)
    })
}

/// A position in memory; it fits, or the memory would not be there.
#[inline]
fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
