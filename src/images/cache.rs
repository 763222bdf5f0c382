//! Cache modes by the names that `qemu-img` has for them.

use clap::ValueEnum;

/// What stands between an image and its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CacheMode {
    /// No page cache (O_DIRECT).
    None,
    /// The page cache; what was written is made stable at the end.
    Writeback,
    /// The page cache, and every write is stable when it ends.
    Writethrough,
    /// No page cache, and every write is stable when it ends.
    Directsync,
    /// The page cache, and nothing is ever made stable.
    Unsafe,
}

impl CacheMode {
    /// Whether the page cache takes no part.
    pub fn direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    /// Whether nothing is made stable.
    pub fn no_flush(self) -> bool {
        self == Self::Unsafe
    }

    /// Whether every write is.
    pub fn stable(self) -> bool {
        matches!(self, Self::Writethrough | Self::Directsync)
    }
}
