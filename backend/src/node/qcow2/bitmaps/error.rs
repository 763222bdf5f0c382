//! Why persistent bitmaps are not loaded or not stored, in QEMU's words where it has some.

use crate::error::IoError;
use crate::node::qcow2::bitmap_directory::{DirectoryError, NotStorable};
use crate::node::qcow2::own_header::ChangeError;
use tidemark_cbt::OutOfMemory;

/// Why the bitmaps of an image are not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The directory or a table breaks the rules.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The directory cannot be read.
    #[error("Failed to read bitmap directory: {0}")]
    ReadDirectory(IoError),
    /// A bitmap cannot be.
    #[error("Could not read bitmap '{0}' from image: {1}")]
    Read(String, IoError),
    /// It is where something else is.
    #[error("Bitmap '{name}': its {part} at offset {offset:#x} is on other metadata of the image")]
    Overlap {
        /// The bitmap's name.
        name: String,
        /// Its table or its bits.
        part: &'static str,
        /// Where in the file.
        offset: u64,
    },
    /// Its bits take more memory than an image of this size may ask for.
    #[error("Bitmap '{0}' and those before it mark more than a file of this size can be believed to")]
    Large(String),
    /// There is no memory for it.
    #[error("Bitmap '{0}': {1}")]
    Memory(String, OutOfMemory),
}

/// Why bitmaps are not stored, or not removed from the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The image is open for reading only.
    #[error("No write access")]
    ReadOnly,
    /// What the guest wrote cannot be made stable, and what they say would be of no use.
    #[error("Failed to flush the image: {0}")]
    Flush(IoError),
    /// The image cannot keep it.
    #[error("Bitmap '{0}' doesn't satisfy the constraints: {1}")]
    Constraints(String, NotStorable),
    /// It is a bitmap of a disk of another size.
    #[error("Bitmap '{0}' is not of the size of the disk")]
    Size(String),
    /// There are more than an image can keep, or their names are too long.
    #[error("Bitmap directory is too large")]
    Directory,
    /// There are no clusters for it.
    #[error("Failed to allocate clusters for bitmap '{0}': {1}")]
    Allocate(String, IoError),
    /// It cannot be written.
    #[error("Failed to write bitmap '{0}' to file: {1}")]
    Write(String, IoError),
    /// The directory cannot be written, or the counts of its clusters.
    #[error("Failed to update bitmap directory: {0}")]
    WriteDirectory(IoError),
    /// The header cannot be changed.
    #[error("Failed to update bitmap extension: {0}")]
    Header(#[from] ChangeError),
    /// There is no memory for what is in use and what was recorded meanwhile.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}
