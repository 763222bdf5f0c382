//! Counting clusters that something leads to already.

use super::Refcounts;
use super::search::Want;
use super::state::Place;
use crate::error::IoError;
use crate::reactor::Handle;
use std::ops::Range;

/// One cluster.
const ONE: Want = Want { least: 1, most: 1 };

impl Refcounts {
    /// Raises counts of zero to one, for clusters in a row that are [reserved](Refcounts::reserve).
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] where the table is broken, [`IoError::NoSpace`] when it cannot be that long.
    /// Clusters up to some block's end may have been counted then.
    pub async fn claim(&self, io: &Handle, host: u64, clusters: u64) -> Result<(), IoError> {
        let cluster_bits = self.state().geometry.cluster_bits;
        let first = host >> cluster_bits;
        let end = first.checked_add(clusters).ok_or(IoError::Invalid)?;
        let mut at = first;
        while at < end {
            let region = self.state().locate(at).0;
            let next = end.min((region as u64 + 1).saturating_mul(self.state().per_region()));
            self.claim_in(io, region, at..next).await?;
            at = next;
        }
        Ok(())
    }

    /// Those of one region.
    async fn claim_in(&self, io: &Handle, region: usize, clusters: Range<u64>) -> Result<(), IoError> {
        self.make_room(io).await?;
        let _turn = self.turn.lock(0..1).await;
        self.make_block(io, region).await?;
        self.load(io, region, &(0..0)).await?;
        let mut state = self.state();
        for cluster in clusters {
            match state.count(cluster) {
                None => return Err(IoError::Io),
                Some(0) => state.set(cluster, 1),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Has a block for a region. Whoever calls has the turn.
    async fn make_block(&self, io: &Handle, region: usize) -> Result<(), IoError> {
        while self.state().place(region) == Place::Nowhere {
            let regions = self.state().regions();
            if region >= regions {
                self.grow_table(io, region, ONE).await?;
                continue;
            }
            let Ok(plan) = self.search(io, ONE, regions).await? else {
                self.grow_table(io, regions, ONE).await?;
                continue;
            };
            let end = plan.all().end << self.state().geometry.cluster_bits;
            self.store.grow(io, end).await?;
            let mut state = self.state();
            let taken = state.commit(plan).host >> state.geometry.cluster_bits;
            match state.place(region) {
                Place::Nowhere => state.add_block(region, taken),
                // Its own block came with a cluster that it counts.
                _ => state.lower(taken..taken + 1).map(drop)?,
            }
        }
        Ok(())
    }
}
