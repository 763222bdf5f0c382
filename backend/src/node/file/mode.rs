//! How an open file is used: by which number and in which blocks. One word, so that a request sees it as a whole.

use crate::io::FileId;
use crate::node::Request;
use std::sync::atomic::{AtomicU64, Ordering};

const DIRECT: u64 = 1 << 48;
const READ_ONLY: u64 = 1 << 49;

/// How requests use a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// The open file.
    pub(super) id: FileId,
    /// It bypasses the page cache.
    pub(super) direct: bool,
    /// It cannot be written to.
    pub(super) read_only: bool,
    /// Writes keep out of each other's blocks of this many bytes, a power of two; direct I/O is of whole ones.
    pub(super) alignment: u32,
    /// Addresses of direct I/O are multiples of this, a power of two.
    pub(super) memory_alignment: u32,
}

impl Mode {
    /// Whether a write may have to read the rest of its block: then all writes keep to the range lock. Guests write
    /// whole 512-byte sectors.
    pub(super) fn reads_before_writing(self) -> bool {
        self.alignment > 512
    }

    /// Whether a request can be done as it is.
    #[inline]
    pub(super) fn is_aligned(self, request: &Request, offset: u64) -> bool {
        !self.direct
            || ((offset | request.len) & u64::from(self.alignment - 1) == 0
                && request.memory.is_aligned(self.memory_alignment as usize))
    }

    fn encode(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        u64::from(self.id.0)
            | u64::from(self.alignment.trailing_zeros()) << 32
            | u64::from(self.memory_alignment.trailing_zeros()) << 40
            | bit(self.direct, DIRECT)
            | bit(self.read_only, READ_ONLY)
    }

    #[inline]
    fn decode(word: u64) -> Self {
        Self {
            id: FileId((word & 0xffff_ffff) as u32),
            direct: word & DIRECT != 0,
            read_only: word & READ_ONLY != 0,
            alignment: 1 << (word >> 32 & 31),
            memory_alignment: 1 << (word >> 40 & 31),
        }
    }
}

/// The mode there is now.
pub(super) struct CurrentMode(AtomicU64);

impl CurrentMode {
    pub(super) fn new(mode: Mode) -> Self {
        Self(AtomicU64::new(mode.encode()))
    }

    #[inline]
    pub(super) fn get(&self) -> Mode {
        Mode::decode(self.0.load(Ordering::Acquire))
    }

    pub(super) fn set(&self, mode: Mode) {
        self.0.store(mode.encode(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_read_as_it_was_set() {
        for (direct, read_only, bits) in [(false, true, 0), (true, false, 9), (true, true, 12), (false, false, 16)] {
            let (alignment, memory_alignment) = (1 << bits, 1 << (bits / 2));
            let mode = Mode { id: FileId(u32::MAX - bits), direct, read_only, alignment, memory_alignment };
            let current = CurrentMode::new(mode);
            assert_eq!(current.get(), mode);
            assert_eq!(mode.reads_before_writing(), bits > 9);
        }
    }
}
