//! Marking the bitmaps of a directory as in use, where they stand.

use super::{FIXED, IN_USE};
use crate::node::qcow2::header::Fields;

/// Where the flags of an entry are.
const FLAGS: usize = 12;

/// Marks all bitmaps of a directory that was parsed as in use and leaves everything else as it is. Each mark is in one
/// sector: whichever of them reach the file, it stays a directory.
pub fn mark_in_use(mut directory: &mut [u8]) {
    while directory.len() >= FIXED {
        let fields = Fields(directory);
        let (name_len, extra, flags) = (usize::from(fields.u16(18)), fields.u32(20) as usize, fields.u32(FLAGS));
        directory[FLAGS..FLAGS + 4].copy_from_slice(&(flags | IN_USE).to_be_bytes());
        let len = FIXED.saturating_add(extra).saturating_add(name_len).saturating_add(7) & !7;
        directory = directory.get_mut(len..).unwrap_or_default();
    }
}
