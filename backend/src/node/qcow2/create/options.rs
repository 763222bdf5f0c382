//! What an image shall be like, and which wishes go together.

use crate::node::qcow2::header::{Compression, HeaderError};

/// Bytes of the smallest clusters that may have extended entries.
const EXTENDED_LEAST: u64 = 16384;

/// What an image shall be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes of the virtual disk.
    pub size: u64,
    /// Bytes per cluster.
    pub cluster_size: u64,
    /// 2 (compat 0.10) or 3 (compat 1.1).
    pub version: u32,
    /// Bits per reference count.
    pub refcount_bits: u64,
    /// Reference counts may be written late.
    pub lazy_refcounts: bool,
    /// The name of the image below.
    pub backing: Option<String>,
    /// The name of its format.
    pub backing_format: Option<String>,
    /// The name of the file that guest clusters are in.
    pub data_file: Option<String>,
    /// That file is a raw image by itself; every cluster is mapped from the start.
    pub data_file_raw: bool,
    /// How clusters may be compressed.
    pub compression: Compression,
    /// Entries tell of parts of clusters.
    pub extended_l2: bool,
    /// What there is before a guest writes.
    pub preallocation: Preallocation,
}

/// What there is of an image before a guest writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// No guest cluster has space.
    #[default]
    Off,
    /// Every guest cluster has its place in the file, as a hole.
    Metadata,
    /// The file system reserves that.
    Falloc,
    /// Zeroes are written there.
    Full,
}

impl Default for CreateOptions {
    /// What QEMU makes when it is told nothing: an empty disk of no bytes.
    fn default() -> Self {
        Self {
            size: 0,
            cluster_size: 65536,
            version: 3,
            refcount_bits: 16,
            lazy_refcounts: false,
            backing: None,
            backing_format: None,
            data_file: None,
            data_file_raw: false,
            compression: Compression::Zlib,
            extended_l2: false,
            preallocation: Preallocation::Off,
        }
    }
}

impl CreateOptions {
    pub(super) fn check(&self) -> Result<(), CreateError> {
        let clusters = 512..=2 << 20;
        let widths = 1..=64;
        let raw = self.data_file_raw;
        let rules = [
            (i64::try_from(self.size).is_err(), CreateError::Negative),
            (!self.size.is_multiple_of(512), CreateError::SizeNotSectors),
            (!matches!(self.version, 2 | 3), CreateError::Version(self.version)),
            (!clusters.contains(&self.cluster_size) || !self.cluster_size.is_power_of_two(), CreateError::ClusterSize),
            (self.backing_format.is_some() && self.backing.is_none(), CreateError::FormatWithoutBacking),
            (
                self.preallocation != Preallocation::Off && self.backing.is_some() && !self.extended_l2,
                CreateError::PreallocationWithBacking,
            ),
            (self.version < 3 && self.extended_l2, CreateError::ExtendedVersion),
            (self.extended_l2 && self.cluster_size < EXTENDED_LEAST, CreateError::ExtendedClusterSize),
            (self.version < 3 && self.lazy_refcounts, CreateError::LazyRefcountsVersion),
            (
                !widths.contains(&self.refcount_bits) || !self.refcount_bits.is_power_of_two(),
                CreateError::RefcountWidth,
            ),
            (self.version < 3 && self.refcount_bits != 16, CreateError::RefcountVersion),
            (raw && self.data_file.is_none(), CreateError::RawWithoutDataFile),
            (raw && self.backing.is_some(), CreateError::RawWithBacking),
            (self.version < 3 && self.data_file.is_some(), CreateError::DataFileVersion),
            (self.version < 3 && self.compression != Compression::Zlib, CreateError::CompressionVersion),
        ];
        rules.into_iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Why there is no such image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// Half a sector.
    #[error("Image size must be a multiple of 512 bytes")]
    SizeNotSectors,
    /// More than 2^63 - 1 bytes.
    #[error("Could not resize image: Image size cannot be negative")]
    Negative,
    /// More than an image with such clusters can map or count.
    #[error("Could not resize image: Failed to grow the L1 table: File too large")]
    TooLarge,
    /// Neither 2 nor 3.
    #[error("Unsupported qcow2 version {0}")]
    Version(u32),
    /// Out of range.
    #[error("Cluster size must be a power of two between 512 and 2048k")]
    ClusterSize,
    /// Out of range.
    #[error("Refcount width must be a power of two and may not exceed 64 bits")]
    RefcountWidth,
    /// Version 2 knows 16 bits only.
    #[error(
        "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)"
    )]
    RefcountVersion,
    /// Came with version 3.
    #[error(
        "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )]
    ExtendedVersion,
    /// Parts would be smaller than a sector.
    #[error("Extended L2 entries are only supported with cluster sizes of at least {EXTENDED_LEAST} bytes")]
    ExtendedClusterSize,
    /// Came with version 3.
    #[error("Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)")]
    LazyRefcountsVersion,
    /// Came with version 3.
    #[error(
        "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )]
    DataFileVersion,
    /// Came with version 3.
    #[error(
        "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )]
    CompressionVersion,
    /// The format of nothing.
    #[error("Backing format cannot be used without backing file")]
    FormatWithoutBacking,
    /// The image below would be hidden.
    #[error("Backing file and preallocation can only be used at the same time if extended_l2 is on")]
    PreallocationWithBacking,
    /// There is nothing that could be raw.
    #[error("data-file-raw requires data-file")]
    RawWithoutDataFile,
    /// The data file alone would not be the disk.
    #[error("Backing file and data-file-raw cannot be used at the same time")]
    RawWithBacking,
    /// The name does not fit into the first cluster, or is too long.
    #[error("Could not assign backing file '{file}'{format}: {why}")]
    Backing {
        /// The name.
        file: String,
        /// How its format is mentioned.
        format: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The header cannot be written.
    #[error(transparent)]
    Header(HeaderError),
}
