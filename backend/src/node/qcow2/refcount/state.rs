//! The reference counts in memory: the table, the blocks that are there, and where free clusters may be.
//!
//! Does no I/O. The table and the blocks here are the truth; `changed` and the blocks' own marks tell what the file does
//! not have. A *region* is what one block counts; regions, and clusters of the file, go by number.

use super::blocks::Blocks;
use super::reserved::Reserved;
use super::width::Width;
use crate::error::IoError;
use crate::io::byte_count;
use crate::node::qcow2::entry::Geometry;
use crate::node::qcow2::l2::metadata::{Metadata, Structure};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Bits 9 to 63 of a table entry: an offset. The others mean nothing, and are left as they are.
pub(super) const OFFSET: u64 = !511;

/// A table's place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableAt {
    pub(super) offset: u64,
    pub(super) clusters: u64,
}

/// What is wrong with reference counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The metadata at this offset is free, they say.
    MetadataFree(u64),
    /// The cluster at this offset was in use and is to be freed, but it is free, they say.
    NotCounted(u64),
    /// An entry of the table does not lead to where a block can be.
    Block {
        /// The entry's number.
        index: usize,
        /// What it says.
        offset: u64,
    },
}

/// What a table entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// All counts of the region are zero.
    Nowhere,
    /// To a block in memory.
    Here,
    /// To a block at this offset of the file.
    File(u64),
    /// To nothing a block can be.
    Broken,
}

/// See the module.
pub(super) struct State {
    pub(super) geometry: Geometry,
    pub(super) width: Width,
    pub(super) table: Vec<u64>,
    /// The table's place; before it in the list, places where it was and that the file may still name.
    pub(super) tables: Vec<TableAt>,
    /// Entries that the file's table does not have.
    pub(super) changed: BTreeSet<usize>,
    pub(super) blocks: Blocks,
    pub(super) reserved: Reserved,
    /// Clusters of metadata: that one is free is a contradiction.
    pub(super) protected: Reserved,
    /// Told of blocks and tables that are made.
    pub(super) metadata: Arc<Metadata>,
    /// What was found to be wrong with the image.
    pub(super) fault: Option<Fault>,
    /// By region, a number below which no count of it is zero.
    lowest: Vec<u32>,
    /// A region before which no count is zero.
    pub(super) first: usize,
    /// Nothing was ever written to clusters from here on.
    fresh_from: u64,
    /// Regions whose entry leads to what is something else's.
    broken: HashSet<usize>,
}

impl State {
    /// Of a file of this length with this table.
    pub(super) fn new(geometry: Geometry, at: TableAt, table: Vec<u64>, file_length: u64, limit: usize) -> Self {
        let mut state = Self {
            geometry,
            width: Width(geometry.refcount_order),
            lowest: vec![0; table.len()],
            table: Vec::new(),
            tables: vec![at],
            changed: BTreeSet::new(),
            blocks: Blocks::new(limit),
            reserved: Reserved::default(),
            protected: Reserved::default(),
            metadata: Arc::default(),
            fault: None,
            first: 0,
            fresh_from: geometry.clusters(file_length),
            broken: HashSet::new(),
        };
        state.protected.add(0..1);
        let first = at.offset >> geometry.cluster_bits;
        state.protected.add(first..first + at.clusters);
        state.reserve_blocks(&table, file_length);
        state.table = table;
        state
    }

    /// No two entries lead to one block, and none to the table or the header.
    fn reserve_blocks(&mut self, table: &[u64], file_length: u64) {
        for (region, entry) in table.iter().map(|entry| entry & OFFSET).enumerate().filter(|(_, entry)| *entry != 0) {
            let cluster = entry >> self.geometry.cluster_bits;
            let aligned = self.geometry.in_cluster(entry) == 0;
            let inside = entry.checked_add(self.geometry.cluster()).is_some_and(|end| end <= file_length);
            if !aligned || !inside || self.protected.end_of(cluster).is_some() {
                self.broken.insert(region);
            } else {
                self.protected.add(cluster..cluster + 1);
            }
        }
    }

    /// Regions that can be: entries of L2 tables have room for 56 bits of offset.
    pub(super) fn most_regions(&self) -> usize {
        byte_count(((1 << 56 >> self.geometry.cluster_bits) / self.per_region()).max(1))
    }

    /// Regions that clusters are taken from without a longer table.
    pub(super) fn regions(&self) -> usize {
        self.table.len().min(self.most_regions())
    }

    /// Counts per block.
    pub(super) fn per_region(&self) -> u64 {
        self.geometry.refcounts_per_block()
    }

    /// The region of a cluster, and the number of its count there.
    pub(super) fn locate(&self, cluster: u64) -> (usize, usize) {
        (byte_count(cluster / self.per_region()), byte_count(cluster % self.per_region()))
    }

    /// Where the block of a region is.
    pub(super) fn place(&self, region: usize) -> Place {
        match self.entry(region) {
            0 => Place::Nowhere,
            _ if self.broken.contains(&region) => Place::Broken,
            _ if self.blocks.has(region) => Place::Here,
            offset => Place::File(offset),
        }
    }

    /// Forgets the block of a region, which is not in memory; what is said to be one stays as it is.
    pub(super) fn forget(&mut self, region: usize) {
        let cluster = self.entry(region) >> self.geometry.cluster_bits;
        if !self.broken.remove(&region) {
            self.protected.remove(cluster..cluster + 1);
        }
        if let Some(entry) = self.table.get_mut(region) {
            *entry = 0;
            self.changed.insert(region);
        }
    }

    /// Remembers that the entry of a region does not lead to a block.
    pub(super) fn broken_block(&mut self, region: usize) -> IoError {
        self.fault = Some(Fault::Block { index: region, offset: self.entry(region) });
        IoError::Io
    }

    /// The offset in a table entry; 0 where there is none.
    pub(super) fn entry(&self, region: usize) -> u64 {
        self.table.get(region).map_or(0, |entry| entry & OFFSET)
    }

    /// A cluster's count; `None` while its block is not in memory.
    pub(super) fn count(&mut self, cluster: u64) -> Option<u64> {
        let (region, number) = self.locate(cluster);
        if self.place(region) == Place::Nowhere {
            return Some(0);
        }
        let width = self.width;
        self.blocks.get(region).map(|block| block.get(width, number))
    }

    /// The first of these clusters of one region, whose block is in memory if it has one, with such a count.
    pub(super) fn find(&mut self, region: usize, clusters: Range<u64>, which: fn(u64) -> bool) -> Option<u64> {
        let base = region as u64 * self.per_region();
        let width = self.width;
        match self.place(region) {
            Place::Nowhere => (which(0) && !clusters.is_empty()).then_some(clusters.start),
            _ => {
                let block = self.blocks.get(region)?;
                let numbers = byte_count(clusters.start - base)..byte_count(clusters.end - base);
                block.find(width, numbers, which).map(|number| base + number as u64)
            }
        }
    }

    /// Changes a count whose block is in memory.
    pub(super) fn set(&mut self, cluster: u64, count: u64) {
        let (region, number) = self.locate(cluster);
        let width = self.width;
        if let Some(block) = self.blocks.get(region) {
            block.set(width, number, count);
        }
    }

    /// Where in a region, from its beginning, free clusters may be.
    pub(super) fn lowest(&self, region: usize) -> u64 {
        u64::from(self.lowest.get(region).copied().unwrap_or(0))
    }

    /// Remembers that no cluster of a region before this number is free.
    pub(super) fn set_lowest(&mut self, region: usize, number: u64) {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        if let Some(lowest) = self.lowest.get_mut(region) {
            *lowest = number;
        }
        while self.lowest.get(self.first).is_some_and(|lowest| u64::from(*lowest) >= self.per_region()) {
            self.first += 1;
        }
    }

    /// Remembers that a cluster is free.
    pub(super) fn note_free(&mut self, cluster: u64) {
        let (region, number) = self.locate(cluster);
        if (number as u64) < self.lowest(region) {
            self.set_lowest(region, number as u64);
        }
        self.first = self.first.min(region);
    }

    /// Room for more regions.
    pub(super) fn extend(&mut self, regions: usize) {
        self.table.resize(regions, 0);
        self.lowest.resize(regions, 0);
    }

    /// Makes a block of zeroes at `cluster` that the file does not have.
    pub(super) fn add_block(&mut self, region: usize, cluster: u64) {
        let offset = cluster << self.geometry.cluster_bits;
        let fresh = cluster >= self.fresh_from;
        self.metadata.make(Structure::RefcountBlock, offset..offset + self.geometry.cluster(), fresh);
        if let Some(entry) = self.table.get_mut(region) {
            *entry = offset;
            self.changed.insert(region);
            self.blocks.add_new(region, byte_count(self.geometry.cluster()));
            self.protected.add(cluster..cluster + 1);
        }
    }

    /// Whether nothing was ever written to clusters that are being taken; from now on it may be.
    pub(super) fn take_fresh(&mut self, clusters: &Range<u64>) -> bool {
        let fresh = clusters.start >= self.fresh_from;
        self.fresh_from = self.fresh_from.max(clusters.end);
        self.metadata.reach(clusters.end << self.geometry.cluster_bits);
        fresh
    }

    /// Lowers the counts of clusters of one region, all of them or, if one is zero or not in memory, none. Returns
    /// those that are free now.
    pub(super) fn lower(&mut self, clusters: Range<u64>) -> Result<Vec<u64>, IoError> {
        let counts: Option<Vec<u64>> = clusters.clone().map(|cluster| self.count(cluster)).collect();
        let counts = counts.ok_or(IoError::Io)?;
        if let Some((cluster, _)) = clusters.clone().zip(&counts).find(|(_, count)| **count == 0) {
            self.fault = Some(Fault::NotCounted(cluster << self.geometry.cluster_bits));
            return Err(IoError::Io);
        }
        for (cluster, count) in clusters.clone().zip(&counts) {
            self.set(cluster, count - 1);
        }
        let free: Vec<u64> =
            clusters.zip(counts).filter(|(_, count)| *count == 1).map(|(cluster, _)| cluster).collect();
        free.iter().for_each(|cluster| self.note_free(*cluster));
        Ok(free)
    }

    /// Whether the file does not have all of this.
    /// The file lacks a block, and the entry that leads there.
    pub(super) fn mark_dirty(&mut self, region: usize) {
        if let Some(block) = self.blocks.get(region) {
            block.mark_dirty();
            self.changed.insert(region);
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.tables.len() > 1 || !self.changed.is_empty() || self.blocks.is_dirty()
    }
}
