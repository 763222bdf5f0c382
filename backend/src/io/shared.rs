//! Words in a file that is mapped: they outlive the process that writes them.
//!
//! Knows nothing of what they mean. A word is written as a whole, and words appear in the order they were written in.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// The words at the beginning of a file.
#[derive(Debug)]
pub struct SharedWords(MmapRegion);

impl SharedWords {
    /// Maps the first `words` words of `file`, which has storage for all of them: a hole that the system cannot fill
    /// would end the process.
    ///
    /// # Errors
    /// The system's.
    pub fn map(file: File, words: usize) -> io::Result<Self> {
        let region = MmapRegion::from_file(FileOffset::new(file, 0), words * WORD);
        region.map(Self).map_err(io::Error::other)
    }

    /// A word; 0 past the end.
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes a word, after all that was written before. Nothing past the end.
    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Release);
        }
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.0.get_atomic_ref(index.checked_mul(WORD)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_maps_the_file_again_finds_the_words() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64).unwrap();
        let words = SharedWords::map(file.try_clone().unwrap(), 8).unwrap();
        words.store(7, 0x1234);
        words.store(8, 1);
        drop(words);
        let words = SharedWords::map(file, 8).unwrap();
        assert_eq!((words.load(6), words.load(7), words.load(8)), (0, 0x1234, 0));
    }
}
