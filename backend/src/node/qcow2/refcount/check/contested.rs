//! What a repair writes to, in clusters that something else has a claim on: written there, it would destroy that.
//!
//! Blocks can be made anew elsewhere, for all they say is counted again. Other tables cannot.

use super::Check;
use crate::node::qcow2::refcount::state::{OFFSET, Place};
use std::collections::BTreeMap;
use std::fmt;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contested {
    /// Entries of the refcount table that lead there or to where no block can be, and what they say.
    pub blocks: Vec<(usize, u64)>,
    /// The first other structure, by its name, and where it is.
    pub table: Option<(&'static str, u64)>,
}

impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.table, self.blocks.first()) {
            (Some((name, host)), _) => write!(f, "the {name} at offset {host:#x} is where something else is, too")?,
            (None, Some((index, host))) => {
                let other = "`tidemark check --repair all` makes another block";
                write!(f, "refcount table entry {index} leads to {host:#x}, where no block is or something else, too")?;
                write!(f, "; {other}")?;
            }
            (None, None) => return Ok(()),
        }
        write!(f, "; nothing was written. `tidemark convert` copies the data into a new image")
    }
}

/// How often a cluster is an L2 table.
#[derive(Clone, Copy, Default)]
pub(super) struct Uses {
    pub(super) count: u64,
    /// The disk has it, not only snapshots.
    pub(super) active: bool,
}

impl Check<'_> {
    /// Counts that an L1 entry leads to a table.
    pub(super) fn note_table(&mut self, table: u64, active: bool) {
        if self.parts.geometry.in_cluster(table) == 0 {
            let uses = self.l2_tables.entry(table).or_default();
            uses.count += 1;
            uses.active |= active;
        }
    }

    /// What is contested, of all that was counted; references of blocks that are do not count any more.
    pub(super) fn contest(&mut self) -> Contested {
        let blocks = self.contested_blocks();
        for (_, host) in &blocks {
            if let Some(times) = self.block_entries.remove(host) {
                self.references.remove(host >> self.parts.geometry.cluster_bits, times);
            }
        }
        Contested { blocks, table: self.contested_table() }
    }

    fn contested_blocks(&self) -> Vec<(usize, u64)> {
        let state = self.refcounts.state();
        let bits = self.parts.geometry.cluster_bits;
        let length = self.store.node().length();
        let is_cut_off = |host: u64| host.saturating_add(self.parts.geometry.cluster()) > length;
        let is_contested = |(region, host): &(usize, u64)| {
            let broken = state.place(*region) == Place::Broken || is_cut_off(*host);
            *host != 0 && (broken || self.references.claims(host >> bits) > 1)
        };
        state.table.iter().map(|entry| entry & OFFSET).enumerate().filter(is_contested).collect()
    }

    fn contested_table(&self) -> Option<(&'static str, u64)> {
        let (parts, bits) = (&self.parts, self.parts.geometry.cluster_bits);
        let reftable = u64::from(parts.reftable_clusters) << bits;
        let l1 = u64::from(parts.l1_entries) * 8;
        let places = [
            ("header", 0, 1),
            ("refcount table", parts.reftable_offset, reftable),
            ("active L1 table", parts.l1_offset, l1),
        ];
        let of = |(_, host, len): &(&str, u64, u64)| {
            let end = (host + len).div_ceil(1 << bits);
            (host >> bits..end).any(|cluster| self.references.claims(cluster) > 1)
        };
        let found = places.into_iter().find(of).map(|(name, host, _)| (name, host));
        found.or_else(|| Some(("L2 table", self.contested_l2()?)))
    }

    fn contested_l2(&self) -> Option<u64> {
        let bits = self.parts.geometry.cluster_bits;
        let is_contested =
            |(host, uses): &(&u64, &Uses)| uses.active && self.references.claims(**host >> bits) > uses.count;
        self.l2_tables.iter().find(is_contested).map(|(host, _)| *host)
    }
}

/// L2 tables by their offset.
pub(super) type L2Tables = BTreeMap<u64, Uses>;
