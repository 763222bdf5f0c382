//! Why an image is refused for its header. The words are QEMU's where QEMU refuses the same.

use super::{MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS, MAX_FORMAT_NAME};

/// A header that cannot be used, or not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No magic number.
    #[error("Image is not in qcow2 format")]
    Magic,
    /// Fewer bytes were given than the first cluster has.
    #[error("The first {0} bytes are needed")]
    Incomplete(u64),
    /// Neither 2 nor 3.
    #[error("Unsupported qcow2 version {0}")]
    Version(u32),
    /// Smaller than 512 bytes or larger than 2 MiB.
    #[error("Unsupported cluster size: 2^{0}")]
    ClusterSize(u32),
    /// Does not reach to the end of the fields that version 3 has.
    #[error("qcow2 header too short")]
    Short,
    /// Does not end in the first cluster.
    #[error("qcow2 header exceeds cluster size")]
    Long,
    /// Extended entries of clusters whose parts are smaller than a sector.
    #[error("Unsupported subcluster size: {0}")]
    PartSize(u64),
    /// Not in the first cluster.
    #[error("Invalid backing file offset")]
    BackingOffset,
    /// Longer than 1023 bytes, or than the first cluster has left.
    #[error("Backing file name too long")]
    BackingName,
    /// Features of the image that are not known here, by their names.
    #[error("Unsupported qcow2 feature(s): {0}")]
    Features(String),
    /// More than 64 bits.
    #[error("Reference count entry width too large; may not exceed 64 bits")]
    RefcountWidth,
    /// A method of encryption that is known, but not supported.
    #[error("qcow2 encryption ({0}) is not supported")]
    Encrypted(&'static str),
    /// One that is not known.
    #[error("Unsupported encryption method {0}")]
    EncryptionMethod(u32),
    /// The field says zstd or another, the bit does not.
    #[error("qcow2: Compression type incompatible feature bit must be set")]
    CompressionBitMissing,
    /// The bit says that it is not zlib, the field says it is.
    #[error("qcow2: Compression type incompatible feature bit must not be set")]
    CompressionBit,
    /// Neither zlib nor zstd.
    #[error("qcow2: unknown compression type: {0}")]
    CompressionType(u8),
    /// Every image has one.
    #[error("Image does not contain a reference count table")]
    NoRefcounts,
    /// Where a table lies or how large it is.
    #[error("{0} {1}")]
    Table(&'static str, TableFault),
    /// Two structures share bytes of the file.
    #[error("{0} overlaps with {1}")]
    Overlap(&'static str, &'static str),
    /// More than any L1 table could map.
    #[error("Image is too big")]
    Size,
    /// Maps less than the virtual disk has.
    #[error("L1 table is too small")]
    L1Size,
    /// Longer than what is left of the first cluster.
    #[error("Header extension too large")]
    Extension,
    /// A format's name that is too long.
    #[error("ERROR: ext_backing_format: len={0} too large (>={max})", max = MAX_FORMAT_NAME + 1)]
    FormatName(usize),
    /// An encryption header where nothing is encrypted.
    #[error("CRYPTO header extension only expected with LUKS encryption method")]
    CryptoExtension,
    /// Not 24 bytes.
    #[error("bitmaps_ext: Invalid extension length")]
    BitmapsLength,
    /// Not zero.
    #[error("bitmaps_ext: Reserved field is not zero")]
    BitmapsReserved,
    /// More than 65535.
    #[error("bitmaps_ext: Image has {0} bitmaps, exceeding the QEMU supported maximum of {MAX_BITMAPS}")]
    BitmapsCount(u32),
    /// The extension is there, bitmaps are not.
    #[error("found bitmaps extension with zero bitmaps")]
    NoBitmaps,
    /// Not the start of a cluster.
    #[error("bitmaps_ext: invalid bitmap directory offset")]
    BitmapsOffset,
    /// More than the longest directory needs.
    #[error(
        "bitmaps_ext: bitmap directory size ({0}) exceeds the maximum supported size ({MAX_BITMAP_DIRECTORY_BYTES})"
    )]
    BitmapsSize(u64),
    /// Bitmaps without a directory.
    #[error("Requested bitmap directory size is zero")]
    EmptyDirectory,
    /// Said to be raw, but there is none.
    #[error("data-file-raw requires a data file")]
    RawWithoutDataFile,
    /// A name with bytes that are no text.
    #[error("{0} is not valid UTF-8")]
    NotText(&'static str),
    /// What the image says of itself does not fit into its first cluster.
    #[error("The header does not fit into a cluster of {0} bytes")]
    DoesNotFit(u64),
    /// Marked so by whoever found it.
    #[error("qcow2: Image is corrupt; cannot be opened read/write")]
    Corrupt,
}

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableFault {
    /// More than its limit.
    #[error("too large")]
    TooLarge,
    /// Not the start of a cluster, or no offset of a file.
    #[error("offset invalid")]
    Offset,
    /// Not all of it is in the file.
    #[error("at offset {offset} ends after the end of the file ({file_length} bytes)")]
    PastEnd {
        /// Where it begins.
        offset: u64,
        /// Where the file ends.
        file_length: u64,
    },
}
