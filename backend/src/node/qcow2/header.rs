//! The first cluster of an image: its header, its header extensions and the name of its backing file.
//!
//! Knows bytes, not files: [`Header::parse`] takes what was read, [`Header::to_bytes`] gives what is to be written. An
//! image is untrusted: a header that was parsed names tables that are aligned, inside the file, no larger than the
//! limits of QEMU, and apart from each other; whatever they contain is for their readers to check. What is not
//! understood (compatible bits, fields, extensions) is kept and written again. Sources: the qcow2 specification,
//! "Header" and "Header extensions"; the limits are those of QEMU 10.

mod error;
mod extensions;
mod features;
mod fields;
mod parse;
mod place;
mod tables;
mod write;

pub use error::{HeaderError, TableFault};
pub use features::{bits, names};
pub(crate) use fields::Fields;
pub(super) use fields::Writer;
pub use place::Used;

use super::entry::Geometry;

/// "QFI\xfb".
pub const MAGIC: u32 = 0x5146_49fb;
/// Bytes of the header of a version 2 image.
pub const LENGTH_V2: u32 = 72;
/// Bytes of the header of a version 3 image as it is written today.
pub const LENGTH_V3: u32 = 112;
/// Bytes that are enough for [`Header::cluster_size`].
pub const PREFIX: usize = 24;
/// Bytes of the largest L1 table.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// Bytes of the largest refcount table.
pub const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// Internal snapshots of an image.
pub const MAX_SNAPSHOTS: u32 = 65536;
/// Bitmaps of an image.
pub const MAX_BITMAPS: u32 = 65535;
/// Bytes of the largest bitmap directory: every bitmap with a name of 1000 bytes.
pub const MAX_BITMAP_DIRECTORY_BYTES: u64 = 65535 * 1024;
/// Bytes of the longest name of a backing file.
pub const MAX_BACKING_NAME: u32 = 1023;
/// Bytes of the longest name of a backing file's format.
pub const MAX_FORMAT_NAME: usize = 15;

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the virtual disk, whole sectors.
    pub size: u64,
    /// Log2 of bytes per cluster, 9 to 21.
    pub cluster_bits: u32,
    /// Log2 of bits per reference count, 0 to 6.
    pub refcount_order: u32,
    /// Where the active L1 table is.
    pub l1_offset: u64,
    /// Its entries; enough for `size`.
    pub l1_entries: u32,
    /// Where the refcount table is.
    pub reftable_offset: u64,
    /// Its clusters.
    pub reftable_clusters: u32,
    /// Where the snapshot table is; means nothing without snapshots.
    pub snapshots_offset: u64,
    /// Internal snapshots.
    pub snapshots: u32,
    /// [`bits`] without which the image cannot be read.
    pub incompatible: u64,
    /// [`bits`] that may be ignored.
    pub compatible: u64,
    /// [`bits`] that a program which does not know them clears before it writes.
    pub autoclear: u64,
    /// How compressed clusters were compressed.
    pub compression: Compression,
    /// The image below.
    pub backing: Option<Backing>,
    /// The name of the external data file, if the image has one and says its name.
    pub data_file: Option<String>,
    /// The persistent bitmaps, if they may be trusted.
    pub bitmaps: Option<BitmapsExtension>,
    /// There were bitmaps, but a program that does not know them has written to the image: they are forgotten.
    pub stale_bitmaps: bool,
    /// All other extensions, as they were and in their order.
    pub extensions: Vec<(u32, Vec<u8>)>,
    /// Bytes of the header without its extensions: 72 in version 2, else at least 104.
    pub header_length: u32,
    /// What the header has after the fields that are known here.
    pub unknown_fields: Vec<u8>,
}

/// How clusters were compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// The image whose content shows where this one has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Its name, as it stands in the image.
    pub file: String,
    /// The name of its format.
    pub format: Option<String>,
}

/// Where the persistent bitmaps are described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapsExtension {
    /// Bitmaps, one at least.
    pub count: u32,
    /// Bytes of the bitmap directory.
    pub size: u64,
    /// Where it is.
    pub offset: u64,
}

impl Header {
    /// The numbers that offsets are computed with.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            version: self.version,
            cluster_bits: self.cluster_bits,
            refcount_order: self.refcount_order,
            external_data: self.incompatible & bits::INCOMPATIBLE_DATA_FILE != 0,
            extended: self.incompatible & bits::INCOMPATIBLE_EXTENDED_L2 != 0,
        }
    }

    /// Whether all that comes after the fields is that of another header, too.
    pub fn has_extensions_of(&self, other: &Self) -> bool {
        let after = |header: &Self| {
            let Self { backing, data_file, bitmaps, stale_bitmaps, extensions, .. } = header.clone();
            let fields = (header.header_length, header.unknown_fields.clone());
            (fields, backing, data_file, bitmaps, stale_bitmaps, extensions)
        };
        after(self) == after(other)
    }

    /// Whether a guest may write to the image.
    ///
    /// # Errors
    /// The image is marked as corrupt.
    pub fn writable(&self) -> Result<(), HeaderError> {
        match self.incompatible & bits::INCOMPATIBLE_CORRUPT {
            0 => Ok(()),
            _ => Err(HeaderError::Corrupt),
        }
    }
}

#[cfg(test)]
mod tests;
