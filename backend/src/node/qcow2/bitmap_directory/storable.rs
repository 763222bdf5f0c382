//! Which bitmaps an image can keep: asked before a bitmap is made persistent.

use super::{BitmapEntry, Image, MAX_BITMAP_BYTES, MAX_NAME, MAX_TABLE_ENTRIES, table_entries};
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

/// Whether the image can keep `new` besides those that it has to keep already. Where its table is does not matter.
///
/// # Errors
/// Why not.
pub fn check_storable<'a>(
    new: &BitmapEntry,
    others: impl IntoIterator<Item = &'a BitmapEntry>,
    image: Image,
) -> Result<(), NotStorable> {
    let (count, bytes) =
        others.into_iter().fold((0_u64, 0_u64), |(count, bytes), entry| (count + 1, bytes + entry.encoded_len()));
    let clusters = table_entries(image.size, new.granularity_bits, image.geometry);
    let rules = [
        (image.geometry.version < 3, NotStorable::Version),
        (count >= u64::from(MAX_BITMAPS), NotStorable::Count),
        (bytes + new.encoded_len() > MAX_BITMAP_DIRECTORY_BYTES, NotStorable::Directory),
        (new.granularity_bits > 31, NotStorable::Coarse),
        (new.granularity_bits < 9, NotStorable::Fine),
        (clusters > MAX_TABLE_ENTRIES || clusters * image.geometry.cluster() > MAX_BITMAP_BYTES, NotStorable::Large),
        (new.name.len() > MAX_NAME, NotStorable::Name),
    ];
    rules.into_iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, error)| Err(error))
}
