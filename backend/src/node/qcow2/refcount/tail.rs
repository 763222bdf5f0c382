//! Where the clusters end that are in use, so that the file need not be longer.
//!
//! Blocks that count nothing but themselves would keep the file as long as it is: they go first. The table without them
//! is stable before their clusters may be used for anything else.

use super::Refcounts;
use super::state::{Place, State};
use crate::error::IoError;
use crate::node::qcow2::l2::metadata::Metadata;
use crate::reactor::Handle;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// A block that the table in memory does not lead to any more.
struct Dropped {
    cluster: u64,
    /// Its own cluster is counted by a block that is still there.
    counted: bool,
}

impl Refcounts {
    /// Gives back, in the last regions, the blocks that nothing is counted by.
    ///
    /// # Errors
    /// The storage's; clusters of some blocks may leak then.
    pub async fn drop_empty_blocks(&self, io: &Handle) -> Result<(), IoError> {
        self.make_room(io).await?;
        let dropped = self.take_empty_blocks(io).await?;
        if dropped.is_empty() {
            return Ok(());
        }
        self.write_back(io).await?;
        self.store.flush(io).await?;
        let cluster_bits = self.state().geometry.cluster_bits;
        for Dropped { cluster, counted } in dropped {
            let bytes = cluster << cluster_bits..(cluster + 1) << cluster_bits;
            self.metadata().remove(bytes.clone());
            self.unreserve(bytes.clone());
            match counted {
                true => drop(self.lower(io, bytes.start, 1).await?),
                false => self.state().note_free(cluster),
            }
        }
        Ok(())
    }

    /// Has `cut` told where the last cluster ends that is in use or may be, in bytes; nobody takes any meanwhile.
    ///
    /// # Errors
    /// The storage's; those of `cut`.
    pub async fn cut(&self, io: &Handle, cut: impl AsyncFnOnce(u64) -> Result<(), IoError>) -> Result<(), IoError> {
        self.make_room(io).await?;
        let _turn = self.turn.lock(0..1).await;
        let mut end = self.state().held_end();
        for region in (0..self.regions()).rev() {
            // A table has many more entries than blocks, and each would be of a million clusters.
            if self.state().place(region) == Place::Nowhere {
                continue;
            }
            self.load(io, region, &(0..0)).await?;
            if let Some(last) = self.state().last_counted(region, &BTreeSet::new()) {
                end = end.max(last + 1);
                break;
            }
        }
        let length = end << self.state().geometry.cluster_bits;
        cut(length).await
    }

    /// Takes the empty blocks of the last regions out of the table. Their clusters are not handed out until they are
    /// released.
    async fn take_empty_blocks(&self, io: &Handle) -> Result<Vec<Dropped>, IoError> {
        let _turn = self.turn.lock(0..1).await;
        let (mut dropped, mut clusters) = (Vec::new(), BTreeSet::new());
        for region in (0..self.regions()).rev() {
            if self.state().place(region) == Place::Nowhere {
                continue;
            }
            self.load(io, region, &(0..0)).await?;
            let mut state = self.state();
            let cluster = state.entry(region) >> state.geometry.cluster_bits;
            clusters.insert(cluster);
            if state.last_counted(region, &clusters).is_some() {
                break;
            }
            state.drop_block(region, cluster);
            dropped.push((region, cluster));
        }
        let (state, regions) = (self.state(), dropped.iter().map(|(region, _)| *region).collect::<BTreeSet<_>>());
        let counted = |cluster| !regions.contains(&state.locate(cluster).0);
        Ok(dropped.iter().map(|(_, cluster)| Dropped { cluster: *cluster, counted: counted(*cluster) }).collect())
    }

    fn regions(&self) -> usize {
        self.state().table.len()
    }

    fn metadata(&self) -> Arc<Metadata> {
        self.state().metadata.clone()
    }
}

impl State {
    /// The last cluster of a region that has a count, but for some; the region's block is in memory if it has one.
    fn last_counted(&mut self, region: usize, but: &BTreeSet<u64>) -> Option<u64> {
        let clusters = self.clusters_of(region);
        clusters.rev().find(|cluster| !but.contains(cluster) && self.count(*cluster).is_none_or(|count| count != 0))
    }

    fn clusters_of(&self, region: usize) -> Range<u64> {
        let start = region as u64 * self.per_region();
        start..start + self.per_region()
    }

    /// Where the clusters end that are not handed out, whatever their counts.
    fn held_end(&self) -> u64 {
        self.reserved.end().max(self.protected.end())
    }

    /// The counts of a region are all zero from now on, and its block's cluster is kept aside.
    fn drop_block(&mut self, region: usize, cluster: u64) {
        if let Some(entry) = self.table.get_mut(region) {
            *entry = 0;
        }
        self.changed.insert(region);
        self.blocks.remove(region);
        self.protected.remove(cluster..cluster + 1);
        self.reserved.add(cluster..cluster + 1);
        self.note_free(region as u64 * self.per_region());
    }
}
