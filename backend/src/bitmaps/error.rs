//! Why bitmaps are not changed, with QEMU's texts.

/// Why a node keeps no bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// It has no image that could.
    Never,
    /// Its image cannot keep this one: QEMU's words.
    Refused(String),
}

/// A refused edit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    /// A bitmap without a name.
    #[error("Bitmap name cannot be empty")]
    NoName,
    /// More than 1023 bytes.
    #[error("Bitmap name too long: {0}")]
    NameTooLong(String),
    /// A name in use.
    #[error("Bitmap already exists: {0}")]
    Exists(String),
    /// A granularity that is none.
    #[error("Granularity must be power of 2 and at least 512")]
    Granularity,
    /// The node's image keeps no bitmaps.
    #[error("Can't store persistent bitmaps to {0}: Operation not supported")]
    CannotStore(String),
    /// The node's image cannot keep this one.
    #[error("Can't make bitmap '{name}' persistent in '{node}': {reason}")]
    NotStorable {
        /// The bitmap.
        name: String,
        /// The node.
        node: String,
        /// QEMU's words for it.
        reason: String,
    },
    /// A persistent bitmap that cannot be removed from its image.
    #[error("{0}")]
    NotRemoved(String),
    /// The image cannot be written to.
    #[error("Bitmap '{0}' is readonly and cannot be modified")]
    ReadOnly(String),
    /// It was not stored when its image was used last.
    #[error("Bitmap '{0}' is inconsistent and cannot be used")]
    Inconsistent(String),
    /// No bitmap of that name.
    #[error("Dirty bitmap '{0}' not found")]
    NotFound(String),
    /// A job or an export uses it.
    #[error("Bitmap '{0}' is currently in use by another operation and cannot be used")]
    Busy(String),
    /// A merge of bitmaps of disks that differ.
    #[error(
        "Bitmaps are of different sizes (destination size is {target_len}, source size is {source_len}) and can't be merged"
    )]
    Sizes {
        /// Bytes of the disk merged into.
        target_len: u64,
        /// Bytes of the disk merged.
        source_len: u64,
    },
    /// No memory.
    #[error(transparent)]
    Memory(#[from] tidemark_cbt::OutOfMemory),
}
