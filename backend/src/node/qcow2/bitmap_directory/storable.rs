//! Which bitmaps an image can keep: asked before a bitmap is made persistent.

use super::{Image, MAX_BITMAP_BYTES, MAX_NAME, MAX_TABLE_ENTRIES, encoded_len, table_entries};
use crate::node::qcow2::header::{MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS};

/// Why an image cannot keep a bitmap. QEMU has "Can't make bitmap 'NAME' persistent in 'NODE': " before these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStorable {
    /// They came with version 3.
    #[error("Cannot store dirty bitmaps in qcow2 v2 files")]
    Version,
    /// More than 2 GiB a bit.
    #[error("Granularity exceeds maximum (2147483648 bytes)")]
    Coarse,
    /// Less than 512 bytes a bit.
    #[error("Granularity is under minimum (512 bytes)")]
    Fine,
    /// More bits than fit into 512 MiB or into the largest table.
    #[error("Too much space will be occupied by the bitmap. Use larger granularity")]
    Large,
    /// Longer than 1023 bytes.
    #[error("Name length exceeds maximum ({MAX_NAME} characters)")]
    Name,
    /// There are 65535 already.
    #[error("Maximum number of persistent bitmaps is already reached")]
    Count,
    /// The directory would be too large.
    #[error("Not enough space in the bitmap directory")]
    Directory,
}

/// Whether the image can keep a bitmap of this name besides those of the names of `others`.
///
/// # Errors
/// Why not; what QEMU asks first is said first.
pub fn check_storable<'a>(
    name: &str,
    granularity_bits: u8,
    others: impl IntoIterator<Item = &'a str>,
    image: Image,
) -> Result<(), NotStorable> {
    if image.geometry.version < 3 {
        return Err(NotStorable::Version);
    }
    check_size(granularity_bits, image)?;
    if name.len() > MAX_NAME {
        return Err(NotStorable::Name);
    }
    let (count, bytes) =
        others.into_iter().fold((0_u64, 0_u64), |(count, bytes), name| (count + 1, bytes + encoded_len(name)));
    if count >= u64::from(MAX_BITMAPS) {
        return Err(NotStorable::Count);
    }
    match bytes + encoded_len(name) > MAX_BITMAP_DIRECTORY_BYTES {
        true => Err(NotStorable::Directory),
        false => Ok(()),
    }
}

/// Whether the image can keep a bitmap of this granularity.
///
/// # Errors
/// Why not.
pub fn check_size(granularity_bits: u8, image: Image) -> Result<(), NotStorable> {
    let clusters = table_entries(image.size, granularity_bits, image.geometry);
    let large = clusters > MAX_TABLE_ENTRIES || clusters * image.geometry.cluster() > MAX_BITMAP_BYTES;
    match granularity_bits {
        32.. => Err(NotStorable::Coarse),
        0..=8 => Err(NotStorable::Fine),
        _ if large => Err(NotStorable::Large),
        _ => Ok(()),
    }
}
