//! A longer refcount table: a new one elsewhere, for a table has to be in one piece.
//!
//! In memory there is one table all along. What changes is its place; the header names the old one until the new one is
//! stable, and only then is the old one's space free.

use super::search::Want;
use super::state::TableAt;
use super::{MOST_TABLE_BYTES, Refcounts};
use crate::error::IoError;
use crate::io::byte_count;
use crate::node::qcow2::l2::metadata::Structure;
use crate::reactor::Handle;

impl Refcounts {
    /// Makes the table long enough for clusters like these in `region`, the first it has no entry for; by half at least,
    /// for it should not happen often. Whoever calls has the turn.
    ///
    /// # Errors
    /// [`IoError::NoSpace`] when a table cannot be that long; the storage's. Nothing has changed then.
    pub(super) async fn grow_table(&self, io: &Handle, region: usize, want: Want) -> Result<(), IoError> {
        let (clusters, regions) = self.larger_table(region as u64, want).ok_or(IoError::NoSpace)?;
        let want = Want { least: clusters, most: clusters };
        let plan = self.search(io, want, regions).await?.map_err(|_| IoError::NoSpace)?;
        let end = plan.all().end << self.state().geometry.cluster_bits;
        self.store.grow(io, end).await?;
        let mut state = self.state();
        state.extend(regions);
        let run = state.commit(plan);
        let first = plan.for_caller().start;
        state.protected.add(first..first + clusters);
        let end = run.host + clusters * state.geometry.cluster();
        state.metadata.make(Structure::RefcountTable, run.host..end, run.fresh);
        state.tables.push(TableAt { offset: run.host, clusters });
        Ok(())
    }

    /// Clusters of a table with room for `region`, those the wanted clusters reach into and those the table itself may
    /// be in; and the regions it has entries for.
    fn larger_table(&self, region: u64, want: Want) -> Option<(u64, usize)> {
        let state = self.state();
        let most = state.most_regions() as u64;
        let (cluster, per_region) = (state.geometry.cluster(), state.per_region());
        let now = state.table.len() as u64;
        let needed = region + 2 + want.least / per_region;
        // The table and new blocks, which are fewer, lie in a row.
        let for_itself = 2 * (needed * 8).div_ceil(cluster) / per_region + 2;
        let least = ((needed + for_itself) * 8).div_ceil(cluster);
        let roomy = (now + now / 2).max(needed + for_itself) * 8;
        let clusters = roomy.div_ceil(cluster).min(MOST_TABLE_BYTES / cluster);
        let possible = clusters >= least && region < most;
        possible.then(|| (clusters, byte_count((clusters * cluster / 8).min(most))))
    }
}
