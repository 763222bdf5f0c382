//! The table of a bitmap: an entry for each cluster of its bits.

use super::DirectoryError;
use crate::node::qcow2::entry::Geometry;

/// Bits 9 to 55: where the cluster is.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Without an offset: all bits are set.
const ONES: u64 = 1;

/// Where a cluster of a bitmap's bits is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableEntry {
    /// Nowhere; no bit is set.
    Zeroes,
    /// Nowhere; all bits are set.
    Ones,
    /// At this offset.
    Cluster(u64),
}

impl TableEntry {
    /// What a word of the table says; `None` if it breaks the rules or names a cluster that is not in the file.
    pub fn decode(word: u64, geometry: Geometry, file_length: u64) -> Option<Self> {
        let offset = word & OFFSET;
        match word {
            0 => Some(Self::Zeroes),
            ONES => Some(Self::Ones),
            _ if word != offset || geometry.in_cluster(offset) != 0 => None,
            _ => (offset + geometry.cluster() <= file_length).then_some(Self::Cluster(offset)),
        }
    }

    /// Its word in the table.
    pub fn encode(self) -> u64 {
        match self {
            Self::Zeroes => 0,
            Self::Ones => ONES,
            Self::Cluster(offset) => offset,
        }
    }
}

/// The entries of the table of the bitmap `name`, which was read as `words`.
///
/// # Errors
/// [`DirectoryError::Table`].
pub fn parse_table(
    name: &str,
    words: &[u64],
    geometry: Geometry,
    file_length: u64,
) -> Result<Vec<TableEntry>, DirectoryError> {
    let entries = words.iter().map(|word| TableEntry::decode(*word, geometry, file_length));
    entries.collect::<Option<_>>().ok_or_else(|| DirectoryError::Table(name.to_owned()))
}

/// The words of a table.
pub fn table_words(entries: &[TableEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.encode()).collect()
}

/// Clusters that the bits for a disk of `size` bytes take.
pub fn table_entries(size: u64, granularity_bits: u8, geometry: Geometry) -> u64 {
    let bits = size.div_ceil(1_u64.checked_shl(granularity_bits.into()).unwrap_or(u64::MAX));
    geometry.clusters(bits.div_ceil(8))
}
