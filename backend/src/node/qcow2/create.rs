//! Making an image: which bytes a file must have to be an empty one.
//!
//! Does no I/O. Every cluster of the result is counted from the start, and an image is one only after its header was
//! written: that is the last of the writes. Words and limits are those of QEMU's `blockdev-create`.

mod layout;
mod options;

pub use layout::Layout;
pub use options::{CreateError, CreateOptions, Preallocation};

use super::header::{Backing, Compression, Header, HeaderError, LENGTH_V2, LENGTH_V3, MAX_L1_BYTES, bits, names};

/// Type of the extension that names features.
const FEATURE_NAMES: u32 = 0x6803_f857;
/// Images with clusters that are not larger have no room for the names of features.
const CLUSTER_WITHOUT_NAMES: u64 = 4096;

/// What to write where, and how long the file becomes.
///
/// # Errors
/// The options contradict each other, or are out of range.
pub fn layout(options: &CreateOptions) -> Result<Layout, CreateError> {
    options.check()?;
    let mut header = empty(options);
    let entries = header.geometry().l1_entries(options.size);
    if entries > MAX_L1_BYTES / 8 {
        return Err(CreateError::TooLarge);
    }
    header.l1_entries = u32::try_from(entries).map_err(|_| CreateError::TooLarge)?;
    let mapped = options.preallocation != Preallocation::Off || options.data_file_raw;
    let layout = Layout::plan(header, mapped).ok_or(CreateError::TooLarge)?;
    layout.header.to_bytes().map_err(|error| refused(options, error))?;
    Ok(layout)
}

/// Bytes of the file when all of the disk was written, which may be more than an image can be made with.
///
/// # Errors
/// As [`layout`], of an image in which nothing is mapped.
pub fn full_length(options: &CreateOptions) -> Result<u64, CreateError> {
    let empty = CreateOptions { preallocation: Preallocation::Off, data_file_raw: false, ..options.clone() };
    Ok(layout::full_length(&layout(&empty)?.header))
}

/// A header that does not know where its tables are yet.
fn empty(options: &CreateOptions) -> Header {
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    let zstd = options.compression == Compression::Zstd;
    let named = options.version > 2 && options.cluster_size > CLUSTER_WITHOUT_NAMES;
    let backing = options.backing.clone();
    Header {
        version: options.version,
        size: options.size,
        cluster_bits: options.cluster_size.trailing_zeros(),
        refcount_order: options.refcount_bits.trailing_zeros(),
        l1_offset: 0,
        l1_entries: 0,
        reftable_offset: 0,
        reftable_clusters: 0,
        snapshots_offset: 0,
        snapshots: 0,
        incompatible: bit(options.data_file.is_some(), bits::INCOMPATIBLE_DATA_FILE)
            | bit(zstd, bits::INCOMPATIBLE_COMPRESSION)
            | bit(options.extended_l2, bits::INCOMPATIBLE_EXTENDED_L2),
        compatible: bit(options.lazy_refcounts, bits::COMPATIBLE_LAZY_REFCOUNTS),
        autoclear: bit(options.data_file_raw, bits::AUTOCLEAR_RAW_DATA),
        compression: options.compression,
        backing: backing.map(|file| Backing { file, format: options.backing_format.clone() }),
        data_file: options.data_file.clone(),
        bitmaps: None,
        stale_bitmaps: false,
        extensions: named.then(|| (FEATURE_NAMES, names())).into_iter().collect(),
        header_length: if options.version > 2 { LENGTH_V3 } else { LENGTH_V2 },
        unknown_fields: Vec::new(),
    }
}

/// What a header that cannot be written means for who wants the image.
fn refused(options: &CreateOptions, error: HeaderError) -> CreateError {
    let Some(file) = options.backing.clone() else { return CreateError::Header(error) };
    let why = match error {
        HeaderError::DoesNotFit(_) => "No space left on device",
        HeaderError::BackingName => "Invalid argument",
        other => return CreateError::Header(other),
    };
    let format = options.backing_format.as_ref().map_or(String::new(), |format| format!(" with format '{format}'"));
    CreateError::Backing { file, format, why }
}

#[cfg(test)]
mod tests;
