//! The short way to what most requests of a disk in use ask for: bytes of one cluster that may be written in place.
//!
//! Says what [`Geometry`] says of them, in fewer steps, and nothing of all others.

use super::entry::{COPIED, Geometry, OFFSET};

/// Numbers of a geometry, made ready.
#[derive(Clone, Copy, Debug)]
pub struct Shortcut {
    /// Bits of an offset inside its cluster.
    inside: u64,
    /// Log2 of bytes per cluster.
    cluster_bits: u32,
    /// Log2 of bytes per L2 table.
    table_bits: u32,
    /// Bits of a cluster's number inside its table.
    index: u64,
    /// Bits of an entry that are not its cluster's offset.
    rest: u64,
    /// The first offset that is one.
    lowest: u64,
}

impl Shortcut {
    /// That of a geometry.
    pub fn new(geometry: Geometry) -> Self {
        let inside = geometry.cluster() - 1;
        Self {
            inside,
            cluster_bits: geometry.cluster_bits,
            table_bits: geometry.cluster_bits + geometry.l2_bits(),
            index: geometry.l2_entries() as u64 - 1,
            rest: !OFFSET | inside,
            // Of parts of clusters a word alone says nothing.
            lowest: if geometry.extended { u64::MAX } else { u64::from(!geometry.external_data) },
        }
    }

    /// The numbers of the table and of the entry in it, if all `len` bytes from `offset` on are in one cluster.
    #[inline]
    pub fn indices(&self, offset: u64, len: u64) -> Option<(usize, usize)> {
        let fits = len <= self.inside + 1 - (offset & self.inside);
        let table = usize::try_from(offset >> self.table_bits).ok()?;
        let index = usize::try_from(offset >> self.cluster_bits & self.index).ok()?;
        fits.then_some((table, index))
    }

    /// Where the byte at `offset` is if this is its entry and its cluster may be written in place.
    #[inline]
    pub fn host(&self, word: u64, offset: u64) -> Option<u64> {
        let cluster = word ^ COPIED;
        let own = word & self.rest == COPIED && cluster >= self.lowest;
        own.then_some(cluster | (offset & self.inside))
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Entry;
    use super::*;

    const GEOMETRIES: [(u32, bool); 4] = [(9, false), (16, false), (16, true), (21, false)];

    fn geometry((cluster_bits, external_data): (u32, bool)) -> Geometry {
        Geometry { version: 3, cluster_bits, refcount_order: 4, external_data, extended: false }
    }

    #[test]
    fn the_short_way_leads_where_the_long_one_does() {
        let words = [0, 1, 2, 512, 0x5_0000, 0x5_0200, 0x20_0000, 1 << 56, 1 << 62];
        for geometry in GEOMETRIES.map(geometry) {
            let shortcut = Shortcut::new(geometry);
            for copied in [0, 1 << 63] {
                for (one, other) in words.iter().flat_map(|one| words.map(|other| (*one, other))) {
                    let word = copied | one | other;
                    let long = match geometry.decode(word) {
                        Entry::Data { host, copied: true } => Some(host + 511),
                        _ => None,
                    };
                    assert_eq!(shortcut.host(word, geometry.cluster() * 7 + 511), long, "{word:#x} {geometry:?}");
                }
            }
        }
    }

    #[test]
    fn it_is_for_requests_in_one_cluster() {
        for geometry in GEOMETRIES.map(geometry) {
            let (shortcut, cluster) = (Shortcut::new(geometry), geometry.cluster());
            for first in [0, cluster * 5, geometry.l2_span() * 3 + cluster * 2, geometry.l2_span() - cluster] {
                let indices = Some((geometry.l1_index(first), geometry.l2_index(first)));
                assert_eq!(shortcut.indices(first, cluster), indices);
                assert_eq!(shortcut.indices(first + cluster - 1, 1), indices);
                assert_eq!(shortcut.indices(first + 1, cluster), None);
                assert_eq!(shortcut.indices(first + cluster - 1, 2), None);
            }
        }
    }
}
