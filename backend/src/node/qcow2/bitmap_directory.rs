//! The directory of persistent bitmaps, their tables, and the clusters that hold their bits.
//!
//! Codec only: it reads no file, allocates no cluster and knows nothing of when bitmaps are stored. A directory comes
//! from an untrusted file: entries that were parsed have tables of the right size inside the file, and names of their
//! own. Sources: the qcow2 specification, "Bitmaps"; limits and words are QEMU's.

mod data;
mod error;
mod marks;
mod storable;
mod table;

pub use data::{fill, is_full, load, span, store};
pub use error::DirectoryError;
pub use marks::mark_in_use;
pub use storable::{NotStorable, check_size, check_storable};
pub use table::{TableEntry, parse_table, table_entries, table_words};

use super::entry::Geometry;
use super::header::{Fields, Writer};
use std::collections::HashSet;

/// Bytes of an entry before its name.
const FIXED: usize = 24;
/// Bytes of the longest name.
pub const MAX_NAME: usize = 1023;
/// Bytes of the largest bitmap.
pub const MAX_BITMAP_BYTES: u64 = 0x2000_0000;
/// Entries of the largest table.
pub const MAX_TABLE_ENTRIES: u64 = 0x800_0000;
/// The bitmap in the file is older than the disk.
const IN_USE: u32 = 1;
/// The bitmap records.
const AUTO: u32 = 2;
/// The only type of bitmap: dirty tracking.
const DIRTY_TRACKING: u8 = 1;

/// A persistent bitmap as the directory describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapEntry {
    /// Its name, unlike all others of the image.
    pub name: String,
    /// Where its table is.
    pub table_offset: u64,
    /// Clusters of bits that the table names.
    pub table_entries: u32,
    /// Nobody has stored it since the image was opened for writing: its bits say nothing.
    pub in_use: bool,
    /// It records what is written.
    pub auto: bool,
    /// Log2 of the bytes that a bit stands for, 9 to 31.
    pub granularity_bits: u8,
}

/// What a directory is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The image's geometry.
    pub geometry: Geometry,
    /// Bytes of the virtual disk.
    pub size: u64,
    /// Bytes of the file.
    pub file_length: u64,
}

/// The `count` bitmaps of a directory.
///
/// # Errors
/// What is wrong with it, and with which bitmap.
pub fn parse(directory: &[u8], count: u32, image: Image) -> Result<Vec<BitmapEntry>, DirectoryError> {
    let mut entries = Vec::new();
    let mut names = HashSet::new();
    let mut rest = directory;
    while !rest.is_empty() {
        if entries.len() as u64 == u64::from(count) {
            return Err(DirectoryError::More);
        }
        let (entry, after) = next(rest, image)?;
        if !names.insert(entry.name.clone()) {
            return Err(DirectoryError::Duplicate(entry.name));
        }
        entries.push(entry);
        rest = after;
    }
    match (entries.len() as u64) < u64::from(count) {
        true => Err(DirectoryError::Less),
        false => Ok(entries),
    }
}

/// The first entry, and what is behind it.
fn next(bytes: &[u8], image: Image) -> Result<(BitmapEntry, &[u8]), DirectoryError> {
    let fields = Fields(bytes.get(..FIXED).ok_or(DirectoryError::Broken)?);
    let (name_len, extra) = (usize::from(fields.u16(18)), fields.u32(20) as usize);
    let len = FIXED.checked_add(extra).and_then(|len| len.checked_add(name_len)).ok_or(DirectoryError::Broken)?;
    let padded = len.checked_next_multiple_of(8).ok_or(DirectoryError::Broken)?;
    let (whole, after) = bytes.split_at_checked(padded).ok_or(DirectoryError::Broken)?;
    if name_len == 0 || name_len > MAX_NAME {
        return Err(DirectoryError::Broken);
    }
    if extra != 0 {
        return Err(DirectoryError::ExtraData);
    }
    let name = whole.get(FIXED..len).ok_or(DirectoryError::Broken)?;
    // QEMU reads it as far as the first zero.
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| DirectoryError::NotText)?;
    let flags = fields.u32(12);
    let entry = BitmapEntry {
        name: name.to_owned(),
        table_offset: fields.u64(0),
        table_entries: fields.u32(8),
        in_use: flags & IN_USE != 0,
        auto: flags & AUTO != 0,
        granularity_bits: fields.u8(17),
    };
    let known = fields.u8(16) == DIRTY_TRACKING && flags & !(IN_USE | AUTO) == 0;
    if !known || name.is_empty() || !entry.fits(image) {
        return Err(DirectoryError::Constraints(entry.name));
    }
    // While a bitmap is in use, the disk may have got another size than its table.
    let needed = table_entries(image.size, entry.granularity_bits, image.geometry);
    if !entry.in_use && u64::from(entry.table_entries) != needed {
        return Err(DirectoryError::TableSize(entry.name));
    }
    Ok((entry, after))
}

impl BitmapEntry {
    /// Limits that hold whatever the bitmap contains.
    fn fits(&self, image: Image) -> bool {
        let entries = u64::from(self.table_entries);
        let end = self.table_offset.checked_add(entries * 8);
        (9..=31).contains(&self.granularity_bits)
            && (1..=MAX_TABLE_ENTRIES).contains(&entries)
            && entries * image.geometry.cluster() <= MAX_BITMAP_BYTES
            // The first cluster is the header's.
            && self.table_offset != 0
            && image.geometry.in_cluster(self.table_offset) == 0
            && end.is_some_and(|end| end <= image.file_length)
    }

    /// Bytes that its entry takes in a directory.
    pub fn encoded_len(&self) -> u64 {
        encoded_len(&self.name)
    }
}

/// Bytes that the entry of a bitmap of this name takes in a directory.
pub fn encoded_len(name: &str) -> u64 {
    (FIXED + name.len()).next_multiple_of(8) as u64
}

/// The directory of these bitmaps.
///
/// # Errors
/// A name is empty or too long.
pub fn to_bytes(entries: &[BitmapEntry]) -> Result<Vec<u8>, DirectoryError> {
    let mut writer = Writer::default();
    for entry in entries {
        let name_len = u16::try_from(entry.name.len()).ok().filter(|len| (1..=MAX_NAME).contains(&usize::from(*len)));
        let name_len = name_len.ok_or_else(|| DirectoryError::Constraints(entry.name.clone()))?;
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        writer.u64(entry.table_offset).u32(entry.table_entries);
        writer.u32(flag(entry.in_use, IN_USE) | flag(entry.auto, AUTO));
        writer.bytes(&[DIRTY_TRACKING, entry.granularity_bits]).bytes(&name_len.to_be_bytes());
        // No extra data.
        writer.u32(0).bytes(entry.name.as_bytes()).pad();
    }
    Ok(writer.0)
}

#[cfg(test)]
mod tests;
