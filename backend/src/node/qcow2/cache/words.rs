//! Long lists of atomic words that take no memory before they are written to, and may become longer while others read
//! them: words that are there stay where they are. The first ones, which most lists have only, are found by one look.

use crate::sync::{AtomicU64, OnceLock};
use std::ops::{Index, Range};

/// How often a list can become longer, each time twice as long at least: from one word to more than there can be.
const STEPS: usize = 40;

/// A list of words.
pub struct Words {
    first: Box<[AtomicU64]>,
    more: [OnceLock<Box<[AtomicU64]>>; STEPS],
}

impl Words {
    /// `count` words, all 0; `None` when there is no memory.
    pub fn zeroed(count: usize) -> Option<Self> {
        zeroed(count).map(Self::from)
    }

    /// The word of this number, if there is one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&AtomicU64> {
        match self.first.get(index) {
            Some(word) => Some(word),
            None => self.run(index..index + 1)?.first(),
        }
    }

    /// Words in a row, if none of the steps by which the list became longer lies between them.
    #[inline]
    pub fn slice(&self, range: Range<usize>) -> Option<&[AtomicU64]> {
        match self.first.get(range.clone()) {
            Some(words) => Some(words),
            None => self.run(range),
        }
    }

    #[inline(never)]
    fn run(&self, range: Range<usize>) -> Option<&[AtomicU64]> {
        let mut before = self.first.len();
        for words in self.more.iter().map_while(OnceLock::get) {
            let start = range.start.checked_sub(before)?;
            if start < words.len() {
                return words.get(start..range.end - before);
            }
            before += words.len();
        }
        None
    }

    /// Words there are.
    pub fn len(&self) -> usize {
        self.first.len() + self.more.iter().map_while(OnceLock::get).map(|words| words.len()).sum::<usize>()
    }

    /// Makes it at least `count` words long; new ones are 0. One caller at a time. False, and nothing changed, when
    /// there is no memory.
    pub fn grow(&self, count: usize) -> bool {
        let len = self.len();
        let Some(missing) = count.checked_sub(len).filter(|missing| *missing > 0) else { return true };
        let next = self.more.iter().find(|words| words.get().is_none());
        match (next, zeroed(missing.max(len))) {
            (Some(next), Some(words)) => next.set(words).is_ok(),
            _ => false,
        }
    }
}

impl From<Box<[AtomicU64]>> for Words {
    fn from(first: Box<[AtomicU64]>) -> Self {
        Self { first, more: std::array::from_fn(|_| OnceLock::new()) }
    }
}

impl Index<usize> for Words {
    type Output = AtomicU64;

    /// # Panics
    /// If there is no such word.
    #[inline]
    fn index(&self, index: usize) -> &AtomicU64 {
        match self.get(index) {
            Some(word) => word,
            None => panic!("word {index} of {}", self.len()),
        }
    }
}

/// `count` words, all 0; `None` when there is no memory.
#[cfg(not(loom))]
fn zeroed(count: usize) -> Option<Box<[AtomicU64]>> {
    bytemuck::allocation::try_zeroed_slice_box(count).ok()
}

/// The same where atomics are more than words.
#[cfg(loom)]
fn zeroed(count: usize) -> Option<Box<[AtomicU64]>> {
    Some((0..count).map(|_| AtomicU64::new(0)).collect())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_list_that_becomes_longer_keeps_its_words_where_they_are() {
        for start in [0, 1, 3] {
            let words = Words::zeroed(start).unwrap();
            let mut places = Vec::new();
            for count in [1, 2, 3, 7, 40, 41, 1000] {
                assert!(words.grow(count) && words.len() >= count && words.len() <= 2 * count.max(start));
                for index in places.len()..words.len() {
                    assert_eq!(words[index].load(Ordering::Relaxed), 0);
                    words[index].store(index as u64 + 1, Ordering::Relaxed);
                    places.push(std::ptr::from_ref(&words[index]));
                }
                let stays = |index: usize| words[index].load(Ordering::Relaxed) == index as u64 + 1;
                assert!((0..places.len()).all(stays));
                assert!(places.iter().enumerate().all(|(index, place)| std::ptr::eq(*place, &words[index])));
                assert!(words.get(words.len()).is_none());
            }
        }
    }

    #[test]
    fn words_in_a_row_are_one_slice_unless_a_step_lies_between_them() {
        let words = Words::zeroed(4).unwrap();
        assert!(words.grow(8));
        assert_eq!(words.slice(0..4).unwrap().len(), 4);
        assert!(std::ptr::eq(&words.slice(4..8).unwrap()[1], &words[5]));
        assert!(words.slice(2..6).is_none() && words.slice(6..9).is_none() && words.slice(8..9).is_none());
    }
}
