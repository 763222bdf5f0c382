//! Where everything of a new image is: header, refcount table, refcount blocks, L1 table, and if guest clusters are
//! mapped from the start, their L2 tables and the clusters themselves.

use crate::node::qcow2::entry::Geometry;
use crate::node::qcow2::header::{Header, MAX_REFTABLE_BYTES};
use std::ops::Range;

/// No entry can say an offset that is not less.
const MAX_OFFSET: u64 = 1 << 56;

/// A new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its header.
    pub header: Header,
    /// Bytes of the file; what is not written is a hole.
    pub length: u64,
    /// Bytes that an external data file must have.
    pub data_length: u64,
    /// Refcount blocks, which are behind the refcount table.
    blocks: u64,
    /// Clusters in use, from the first of the file.
    clusters: u64,
    /// Cluster of the first L2 table, if guest clusters are mapped.
    l2: Option<u64>,
    /// Cluster of the first guest cluster of the file.
    data: u64,
}

impl Layout {
    /// Places for the tables of `header`, which has its sizes; `None` when no image is that large.
    pub(super) fn plan(mut header: Header, mapped: bool) -> Option<Self> {
        let geometry = header.geometry();
        let l1 = geometry.clusters(u64::from(header.l1_entries) * 8);
        let l2 = if mapped { u64::from(header.l1_entries) } else { 0 };
        let guest = geometry.clusters(header.size);
        let data = if mapped && !geometry.external_data { guest } else { 0 };
        if mapped && header.size > MAX_OFFSET {
            return None;
        }
        let (reftable, blocks) = counts(geometry, l1 + l2 + data);
        let clusters = 1 + reftable + blocks + l1 + l2 + data;
        if reftable * geometry.cluster() > MAX_REFTABLE_BYTES || clusters * geometry.cluster() > MAX_OFFSET {
            return None;
        }
        let first_l1 = 1 + reftable + blocks;
        header.reftable_offset = geometry.cluster();
        header.reftable_clusters = u32::try_from(reftable).ok()?;
        header.l1_offset = if l1 > 0 { first_l1 * geometry.cluster() } else { 0 };
        let length = match l2 + data {
            0 => first_l1 * geometry.cluster() + u64::from(header.l1_entries) * 8,
            _ => clusters * geometry.cluster(),
        };
        let data_length = if geometry.external_data { header.size } else { 0 };
        let data = first_l1 + l1 + l2;
        Some(Self { header, length, data_length, blocks, clusters, l2: mapped.then_some(first_l1 + l1), data })
    }

    /// Offsets and bytes to write, in this order, table by table; the header, which makes it an image, is the last and
    /// is to be written when all else is stable.
    pub fn writes(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let cluster = self.header.geometry().cluster();
        let first_block = 1 + u64::from(self.header.reftable_clusters);
        let blocks = (0..self.blocks).map(move |n| ((first_block + n) * cluster, self.refcount_block(n)));
        let reftable = words((0..self.blocks).map(|n| (first_block + n) * cluster), self.reftable_words());
        let tables = self.l2.into_iter().flat_map(move |first| self.l2_tables(first));
        let l1 = (self.header.l1_entries > 0).then(|| (self.header.l1_offset, self.l1_table()));
        // A layout is made only if its header can be written.
        let header = self.header.to_bytes().ok().map(|bytes| (0, bytes));
        blocks.chain([(self.header.reftable_offset, reftable)]).chain(tables).chain(l1).chain(header)
    }

    /// Bytes of the file where guest clusters are mapped from the start.
    pub fn mapped(&self) -> Range<u64> {
        let start = (self.data * self.header.geometry().cluster()).min(self.length);
        start..if self.l2.is_some() { self.length } else { start }
    }

    fn reftable_words(&self) -> u64 {
        u64::from(self.header.reftable_clusters) * self.header.geometry().cluster() / 8
    }

    /// Counts of one in the n-th block, up to the last cluster that is in use.
    fn refcount_block(&self, n: u64) -> Vec<u8> {
        let geometry = self.header.geometry();
        let per_block = geometry.refcounts_per_block();
        let used = self.clusters.saturating_sub(n * per_block).min(per_block);
        let mut block: Vec<u8> = match geometry.refcount_order {
            // Several counts a byte, the first in its lowest bits.
            order @ 0..=2 => {
                let bits = 1 << order;
                let byte = |byte: u64| {
                    let counts = (byte * 8 / bits)..((byte + 1) * 8 / bits).min(used);
                    counts.fold(0, |sum, count| sum | 1 << (count * bits % 8))
                };
                (0..(used * bits).div_ceil(8)).map(byte).collect()
            }
            order => {
                let width = 1 << (order - 3);
                let count = |_| std::iter::repeat_n(0, width - 1).chain([1]);
                (0..used).flat_map(count).collect()
            }
        };
        block.resize(usize::try_from(geometry.cluster()).unwrap_or(0), 0);
        block
    }

    fn l1_table(&self) -> Vec<u8> {
        let geometry = self.header.geometry();
        let entries = u64::from(self.header.l1_entries);
        let entry = |n: u64| self.l2.map_or(0, |first| geometry.l1_entry((first + n) * geometry.cluster()));
        words((0..entries).map(entry), entries)
    }

    fn l2_tables(&self, first: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let geometry = self.header.geometry();
        let per_table = geometry.l2_entries() as u64;
        let guest = geometry.clusters(self.header.size);
        (0..u64::from(self.header.l1_entries)).map(move |n| {
            let mapped = n * per_table..((n + 1) * per_table).min(guest);
            ((first + n) * geometry.cluster(), self.l2_table(mapped))
        })
    }

    fn l2_table(&self, guest: Range<u64>) -> Vec<u8> {
        let geometry = self.header.geometry();
        let first = if geometry.external_data { 0 } else { self.data };
        let entry = |n| geometry.data_entry((first + n) * geometry.cluster());
        // Of an extended entry the second word says of no part that something was written there.
        let second = usize::from(geometry.extended);
        let entries = guest.flat_map(|n| std::iter::once(entry(n)).chain(std::iter::repeat_n(0, second)));
        words(entries, geometry.l2_words() as u64)
    }
}

/// Bytes of the file of an image whose guest clusters are all mapped, also where it is too large to be made like that.
pub(super) fn full_length(header: &Header) -> u64 {
    let (geometry, l1) = (header.geometry(), u64::from(header.l1_entries));
    let data = if geometry.external_data { 0 } else { geometry.clusters(header.size) };
    let others = geometry.clusters(l1 * 8) + l1 + data;
    let (reftable, blocks) = counts(geometry, others);
    (1 + reftable + blocks + others) * geometry.cluster()
}

/// Clusters of the refcount table and refcount blocks that the header, they themselves and so many `others` need.
fn counts(geometry: Geometry, others: u64) -> (u64, u64) {
    // Both count themselves; each round needs more than the one before, or is the last.
    let (mut reftable, mut blocks) = (1, 1);
    loop {
        let clusters = 1 + reftable + blocks + others;
        let needed = clusters.div_ceil(geometry.refcounts_per_block());
        let table = geometry.clusters(needed * 8);
        if (table, needed) == (reftable, blocks) {
            return (reftable, blocks);
        }
        (reftable, blocks) = (table, needed);
    }
}

/// A table of `count` words.
fn words(values: impl Iterator<Item = u64>, count: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = values.flat_map(u64::to_be_bytes).collect();
    bytes.resize(usize::try_from(count * 8).unwrap_or(0), 0);
    bytes
}
