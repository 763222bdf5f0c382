//! Feature bits, and their names.

use super::error::HeaderError;
use super::extensions;

/// Feature bits of the header.
pub mod bits {
    /// Incompatible: reference counts may be wrong.
    pub const INCOMPATIBLE_DIRTY: u64 = 1;
    /// Incompatible: anything may be wrong; the image must not be written to.
    pub const INCOMPATIBLE_CORRUPT: u64 = 2;
    /// Incompatible: guest clusters are in an external data file.
    pub const INCOMPATIBLE_DATA_FILE: u64 = 4;
    /// Incompatible: the compression type is not zlib.
    pub const INCOMPATIBLE_COMPRESSION: u64 = 8;
    /// Incompatible: entries of L2 tables have 16 bytes.
    pub const INCOMPATIBLE_EXTENDED_L2: u64 = 16;
    /// Those an image may have here.
    pub const INCOMPATIBLE_SUPPORTED: u64 = INCOMPATIBLE_DIRTY
        | INCOMPATIBLE_CORRUPT
        | INCOMPATIBLE_DATA_FILE
        | INCOMPATIBLE_COMPRESSION
        | INCOMPATIBLE_EXTENDED_L2;
    /// Compatible: reference counts may be written late, with the dirty bit set meanwhile.
    pub const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1;
    /// Autoclear: the bitmaps extension is consistent.
    pub const AUTOCLEAR_BITMAPS: u64 = 1;
    /// Autoclear: the external data file is a raw image by itself.
    pub const AUTOCLEAR_RAW_DATA: u64 = 2;
    /// Autoclear, and private: a journal in memory goes with the image.
    pub const AUTOCLEAR_JOURNAL: u64 = 1 << 62;
    /// Autoclear, and private: a change journal in a file goes with the image.
    pub const AUTOCLEAR_CHANGES: u64 = 1 << 61;
    /// Autoclear, and private: a change journal in memory goes with the image.
    pub const AUTOCLEAR_SHARED_CHANGES: u64 = 1 << 60;
    /// Autoclear, and private: the number is that of the external data file as it was left.
    pub const AUTOCLEAR_DATA_LEFT: u64 = 1 << 59;
}

/// Bytes of an entry of the feature name table: kind, bit, name.
const ENTRY: usize = 48;
/// (kind of bit, number of bit, name), as QEMU names them.
const NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The content of a feature name table for the features known here.
pub fn names() -> Vec<u8> {
    let entry = |(kind, bit, name): (u8, u8, &str)| {
        let mut bytes = vec![kind, bit];
        bytes.extend(name.as_bytes());
        bytes.resize(ENTRY, 0);
        bytes
    };
    NAMES.into_iter().flat_map(entry).collect()
}

/// Refuses incompatible features that are not supported, by the names that the image's own table has for them.
pub(super) fn check(incompatible: u64, cluster: &[u8], start: usize, end: usize) -> Result<(), HeaderError> {
    let mut unknown = incompatible & !bits::INCOMPATIBLE_SUPPORTED;
    if unknown == 0 {
        return Ok(());
    }
    let readable = extensions::walk(cluster, start, end).map_while(Result::ok);
    let table =
        readable.filter(|(kind, _)| *kind == extensions::FEATURE_NAMES).last().map_or(&[][..], |(_, data)| data);
    let ours = names();
    // A table of the image that does not name what is known here does not hide its name.
    let entries = table.chunks_exact(ENTRY).chain(ours.chunks_exact(ENTRY));
    let mut found: Vec<String> = Vec::new();
    for entry in entries {
        let &[kind, bit, ref name @ ..] = entry else { continue };
        let mask = 1_u64.checked_shl(u32::from(bit)).unwrap_or(0);
        if kind == 0 && unknown & mask != 0 {
            unknown &= !mask;
            found.push(printable(name));
        }
    }
    if unknown != 0 {
        found.push(format!("Unknown incompatible feature: {unknown:x}"));
    }
    Err(HeaderError::Features(found.join(", ")))
}

/// A name that may be printed on a terminal, up to its first zero.
fn printable(name: &[u8]) -> String {
    let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
