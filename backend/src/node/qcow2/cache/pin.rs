//! A table that stays where it is. The only way to change one.

use super::{Cache, DIRTY};
use crate::sync::Ordering;

/// A table in its slot for as long as this lives.
pub struct Pin<'a> {
    cache: &'a Cache,
    slot: usize,
}

impl<'a> Pin<'a> {
    /// Takes over one pin that has been counted.
    pub(super) fn new(cache: &'a Cache, slot: usize) -> Self {
        Self { cache, slot }
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// A word.
    ///
    /// # Panics
    /// If a table has no such word.
    pub fn word(&self, index: usize) -> u64 {
        self.cache.slot(self.slot)[index].load(Ordering::Acquire)
    }

    /// Changes a word; the table is dirty then.
    ///
    /// # Panics
    /// If a table has no such word.
    pub fn set(&self, index: usize, value: u64) {
        self.cache.slot(self.slot)[index].store(value, Ordering::Release);
        self.mark_dirty();
    }

    /// Changes a word that is still `before`, for readers here only: the table is no more dirty than it was.
    ///
    /// # Panics
    /// If a table has no such word.
    pub fn exchange(&self, index: usize, before: u64, after: u64) {
        let word = &self.cache.slot(self.slot)[index];
        // Where it has changed meanwhile, what it is now counts.
        let _ = word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The table has changed, or what was taken of it could not be written.
    pub fn mark_dirty(&self) {
        // Release, after the store: who takes the mark away sees the word. Always, even where the mark is there: it
        // may just be taken away.
        self.cache.states[self.slot].fetch_or(DIRTY, Ordering::Release);
    }

    /// Whether words have changed since they were copied last.
    pub fn is_dirty(&self) -> bool {
        self.cache.states[self.slot].load(Ordering::Acquire) & DIRTY != 0
    }

    /// All words.
    pub fn copy(&self) -> Vec<u64> {
        self.cache.slot(self.slot).iter().map(|word| word.load(Ordering::Acquire)).collect()
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        // Release: what was read by this pin was read before the slot is given away.
        self.cache.states[self.slot].fetch_sub(1, Ordering::Release);
    }
}
