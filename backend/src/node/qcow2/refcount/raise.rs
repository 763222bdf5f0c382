//! One more reference to clusters that are in use already: what a snapshot does to all of a disk.

use super::Refcounts;
use super::state::{Fault, State};
use crate::error::IoError;
use crate::reactor::Handle;
use std::ops::Range;

impl Refcounts {
    /// Raises the counts of clusters in a row, all of them or none.
    ///
    /// # Errors
    /// [`IoError::Invalid`] where a count is as large as its width lets it be; [`IoError::Io`] for a cluster that is
    /// free, though something leads there; the storage's.
    pub async fn raise(&self, io: &Handle, host: u64, clusters: u64) -> Result<(), IoError> {
        let (cluster_bits, per_region) = {
            let state = self.state();
            (state.geometry.cluster_bits, state.per_region())
        };
        let first = host >> cluster_bits;
        let end = first.checked_add(clusters).ok_or(IoError::Invalid)?;
        let mut at = first;
        while at < end {
            let region = self.state().locate(at).0;
            let next = end.min((region as u64 + 1).saturating_mul(per_region));
            if let Err(error) = self.raise_in(io, region, at..next).await {
                self.release(io, host, at - first).await?;
                return Err(error);
            }
            at = next;
        }
        Ok(())
    }

    /// Those of one region.
    async fn raise_in(&self, io: &Handle, region: usize, clusters: Range<u64>) -> Result<(), IoError> {
        self.make_room(io).await?;
        let _turn = self.turn.lock(0..1).await;
        self.load(io, region, &(0..0)).await?;
        self.state().raise(clusters)
    }

    /// The largest count that there can be.
    pub fn most(&self) -> u64 {
        self.state().most()
    }
}

impl State {
    fn most(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.geometry.refcount_order))
    }

    /// Raises the counts of clusters of one region, all of them or none.
    fn raise(&mut self, clusters: Range<u64>) -> Result<(), IoError> {
        let most = self.most();
        let counts: Option<Vec<u64>> = clusters.clone().map(|cluster| self.count(cluster)).collect();
        let counts = counts.ok_or(IoError::Io)?;
        if let Some((cluster, _)) = clusters.clone().zip(&counts).find(|(_, count)| **count == 0) {
            self.fault = Some(Fault::NotCounted(cluster << self.geometry.cluster_bits));
            return Err(IoError::Io);
        }
        if counts.iter().any(|count| *count >= most) {
            return Err(IoError::Invalid);
        }
        clusters.zip(counts).for_each(|(cluster, count)| self.set(cluster, count + 1));
        Ok(())
    }
}
