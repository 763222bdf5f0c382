//! Which chunks of a disk are still to be copied before they may be overwritten: the Owed ordering.
//!
//! Two bits a chunk, changed by compare-and-swap only. Whoever turns OWED into BUSY copies the chunk and nobody else
//! does; everybody else's view of DONE is ordered after that copy.

use crate::sync::{AtomicU64, Ordering};
use crate::{Bitmap, Granularity, OutOfMemory, zeroed};
use std::ops::Range;

/// Chunks per word.
const PER_WORD: u64 = 32;
/// The lower bit of every chunk.
const LOW: u64 = 0x5555_5555_5555_5555;

/// What has become of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// Copied, or never owed: may be overwritten.
    Done,
    /// To be copied.
    Owed,
    /// Being copied.
    Busy,
}

impl ChunkState {
    fn bits(self) -> u64 {
        match self {
            Self::Done => 0,
            Self::Owed => 1,
            Self::Busy => 2,
        }
    }
}

/// The chunks of a disk.
pub struct CopyMap {
    len: u64,
    chunk: Granularity,
    words: Box<[AtomicU64]>,
    /// Chunks that are not done.
    undone: AtomicU64,
}

impl CopyMap {
    /// A map of a disk of `len` bytes that owes nothing.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(len: u64, chunk: Granularity) -> Result<Self, OutOfMemory> {
        let words = zeroed(len.div_ceil(chunk.bytes()).div_ceil(PER_WORD))?;
        Ok(Self { len, chunk, words, undone: AtomicU64::new(0) })
    }

    /// Bytes of the disk.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.undone.load(Ordering::SeqCst) == 0
    }

    /// Bytes of a chunk.
    pub fn chunk(&self) -> Granularity {
        self.chunk
    }

    /// Everything is owed. Before anybody claims.
    pub fn owe_all(&self) {
        self.owe_range(0, self.len);
    }

    /// What a bitmap marks is owed. Before anybody claims.
    pub fn owe(&self, marked: &Bitmap) {
        let mut from = 0;
        while let Some(run) = marked.next_marked(from) {
            self.owe_range(run.start, run.end - run.start);
            from = run.end;
        }
    }

    /// The chunks that the range touches are owed. Before anybody claims.
    pub fn owe_range(&self, offset: u64, len: u64) {
        let Some((first, last)) = self.chunks(offset, len) else { return };
        for (word, mask) in words(first, last) {
            let old = self.words[index(word)].fetch_or(mask & LOW, Ordering::SeqCst);
            let new = mask & LOW & !(old | old >> 1);
            self.undone.fetch_add(u64::from(new.count_ones()), Ordering::SeqCst);
        }
    }

    /// Whether all chunks that the range touches are done: the write that asks comes after their copies.
    #[inline]
    pub fn is_done(&self, offset: u64, len: u64) -> bool {
        let Some((first, last)) = self.chunks(offset, len) else { return true };
        if first / PER_WORD == last / PER_WORD {
            return self.word(first / PER_WORD) & mask(first % PER_WORD, last % PER_WORD) == 0;
        }
        words(first, last).all(|(word, mask)| self.word(word) & mask == 0)
    }

    /// The state of the chunk at `offset`; beyond the end it is done.
    pub fn state(&self, offset: u64) -> ChunkState {
        let chunk = offset >> self.chunk.bits();
        if offset >= self.len {
            return ChunkState::Done;
        }
        match self.word(chunk / PER_WORD) >> (2 * (chunk % PER_WORD)) & 3 {
            0 => ChunkState::Done,
            1 => ChunkState::Owed,
            _ => ChunkState::Busy,
        }
    }

    /// Where in the range the first chunk of a state begins, but not before the range.
    pub fn first(&self, range: Range<u64>, state: ChunkState) -> Option<u64> {
        let (first, last) = self.chunks(range.start, range.end.saturating_sub(range.start))?;
        let found = words(first, last).find_map(|(word, mask)| {
            let found = matching(self.word(word), state.bits()) & mask;
            (found != 0).then(|| word * PER_WORD + u64::from(found.trailing_zeros() / 2))
        })?;
        Some((found << self.chunk.bits()).max(range.start))
    }

    /// The first owed chunk at or after `from`.
    pub fn next_owed(&self, from: u64) -> Option<u64> {
        self.first(from..self.len, ChunkState::Owed)
    }

    /// Claims the first run of owed chunks that the range touches, up to `max` bytes (one chunk at least), to be copied
    /// by the caller. Whole chunks, cut off at the end of the disk.
    pub fn claim(&self, offset: u64, len: u64, max: u64) -> Option<Range<u64>> {
        let (first, last) = self.chunks(offset, len)?;
        let most = (max >> self.chunk.bits()).max(1);
        let start = (first / PER_WORD..=last / PER_WORD).find_map(|word| {
            let from = if word == first / PER_WORD { first % PER_WORD } else { 0 };
            let to = if word == last / PER_WORD { last % PER_WORD } else { PER_WORD - 1 };
            self.claim_in(word, from, to, most, false)
        })?;
        let mut end = start.end;
        while end.is_multiple_of(PER_WORD) && end <= last && end - start.start < most {
            let word = end / PER_WORD;
            let to = if word == last / PER_WORD { last % PER_WORD } else { PER_WORD - 1 };
            match self.claim_in(word, 0, to, most - (end - start.start), true) {
                Some(more) => end = more.end,
                None => break,
            }
        }
        let bits = self.chunk.bits();
        Some(start.start << bits..(end << bits).min(self.len))
    }

    /// Claims a run of at most `most` chunks in one word, at its `from`th chunk if `at_once`.
    fn claim_in(&self, word: u64, from: u64, to: u64, most: u64, at_once: bool) -> Option<Range<u64>> {
        let target = &self.words[index(word)];
        let mut seen = target.load(Ordering::Relaxed);
        loop {
            let owed = matching(seen, 1) & mask(from, to);
            let first = (owed != 0).then(|| u64::from(owed.trailing_zeros() / 2))?;
            if at_once && first != from {
                return None;
            }
            // Ones from the first owed chunk on, as long as they last.
            let run = (owed >> (2 * first) | !LOW).trailing_ones() / 2;
            let count = u64::from(run).max(1).min(most);
            let chunks = mask(first, first + count - 1) & LOW;
            // AcqRel: after a failed copy, the next one comes after it.
            match target.compare_exchange_weak(seen, seen & !chunks | chunks << 1, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Some(word * PER_WORD + first..word * PER_WORD + first + count),
                Err(other) => seen = other,
            }
        }
    }

    /// A claimed run is copied.
    pub fn done(&self, run: Range<u64>) {
        let Some((first, last)) = self.chunks(run.start, run.end - run.start) else { return };
        for (word, mask) in words(first, last) {
            // SeqCst, so also Release: who sees DONE sees the copy; and in one order with readers' looks.
            let old = self.words[index(word)].fetch_and(!mask, Ordering::SeqCst);
            debug_assert_eq!(matching(old, 2) & mask, mask & LOW, "not claimed");
            self.undone.fetch_sub(u64::from((mask & LOW).count_ones()), Ordering::SeqCst);
        }
    }

    /// A claimed run could not be copied: it is owed again.
    pub fn failed(&self, run: Range<u64>) {
        let Some((first, last)) = self.chunks(run.start, run.end - run.start) else { return };
        for (word, mask) in words(first, last) {
            // 10 becomes 01.
            let old = self.words[index(word)].fetch_xor(mask, Ordering::SeqCst);
            debug_assert_eq!(matching(old, 2) & mask, mask & LOW, "not claimed");
        }
    }

    /// Nobody needs the old content of the range any more: what is owed of chunks that lie in it wholly is no longer.
    pub fn drop_owed(&self, offset: u64, len: u64) {
        let chunk = self.chunk.bytes();
        let start = offset.next_multiple_of(chunk);
        let end = offset.saturating_add(len);
        let end = if end >= self.len { self.len } else { end - end % chunk };
        let Some((first, last)) = self.chunks(start, end.saturating_sub(start)) else { return };
        for (word, mask) in words(first, last) {
            let target = &self.words[index(word)];
            let mut seen = target.load(Ordering::Relaxed);
            loop {
                let owed = matching(seen, 1) & mask;
                match target.compare_exchange_weak(seen, seen & !owed, Ordering::SeqCst, Ordering::Relaxed) {
                    Ok(_) => {
                        self.undone.fetch_sub(u64::from(owed.count_ones()), Ordering::SeqCst);
                        break;
                    }
                    Err(other) => seen = other,
                }
            }
        }
    }

    /// Bytes that are owed or being copied; the last chunk counts as far as the disk goes.
    pub fn owed_bytes(&self) -> u64 {
        let bytes = self.undone.load(Ordering::SeqCst) << self.chunk.bits();
        let slack = self.len.next_multiple_of(self.chunk.bytes()) - self.len;
        let last_undone = self.len > 0 && self.state(self.len - 1) != ChunkState::Done;
        bytes.saturating_sub(if last_undone { slack } else { 0 })
    }

    /// Marks what is not done.
    pub fn marked_undone(&self, into: &Bitmap) {
        let bits = self.chunk.bits();
        for (at, word) in self.words.iter().enumerate() {
            let word = word.load(Ordering::SeqCst);
            let mut left = (word | word >> 1) & LOW;
            while left != 0 {
                let chunk = at as u64 * PER_WORD + u64::from(left.trailing_zeros() / 2);
                into.mark(chunk << bits, 1 << bits);
                left &= left - 1;
            }
        }
    }

    /// First and last chunk that a range touches.
    #[inline]
    fn chunks(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let end = offset.saturating_add(len).min(self.len);
        let bits = self.chunk.bits();
        (offset < end).then(|| (offset >> bits, (end - 1) >> bits))
    }

    #[inline]
    fn word(&self, word: u64) -> u64 {
        // Acquire: a write that sees DONE comes after the copy.
        self.words[index(word)].load(Ordering::Acquire)
    }
}

/// The words from chunk `first` to chunk `last`, each with the mask of those chunks.
fn words(first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    (first / PER_WORD..=last / PER_WORD).map(move |word| {
        let low = if word == first / PER_WORD { first % PER_WORD } else { 0 };
        let high = if word == last / PER_WORD { last % PER_WORD } else { PER_WORD - 1 };
        (word, mask(low, high))
    })
}

/// Both bits of chunks `low` to `high` of a word.
#[inline]
fn mask(low: u64, high: u64) -> u64 {
    (u64::MAX << (2 * low)) & (u64::MAX >> (2 * (PER_WORD - 1 - high)))
}

/// The lower bit of each chunk of `word` that has this state.
fn matching(word: u64, state: u64) -> u64 {
    let [low, high] = [word & LOW, word >> 1 & LOW];
    match state {
        0 => LOW & !low & !high,
        1 => low & !high,
        _ => high & !low,
    }
}

/// A position in memory; it fits, or the memory would not be there.
#[inline]
fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
