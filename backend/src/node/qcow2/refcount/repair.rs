//! Makes the counts of an image those of its references: what was not counted is, what leaked is free.
//!
//! Blocks that there are come first. Then nothing in what they count is taken for a new block that is in use.

use super::Refcounts;
use super::check::{Contested, Counted};
use super::state::Place;
use crate::error::IoError;
use crate::reactor::Handle;
use std::cmp::Ordering;
use std::ops::Range;

/// What was wrong, in clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Counted too low.
    pub raised: u64,
    /// Counted too high: leaked.
    pub lowered: u64,
}

impl Refcounts {
    /// Forgets blocks that something else has a claim on: others are made instead of them. To be called before anything
    /// is known of the image.
    pub(in crate::node::qcow2) fn forget(&self, contested: &Contested) {
        let mut state = self.state();
        contested.blocks.iter().for_each(|(region, _)| state.forget(*region));
    }

    /// Makes the counts those that were counted; without `raises` only those that are too high. Nobody may be using the
    /// image yet.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] where the table is broken.
    pub(in crate::node::qcow2) async fn correct(
        &self,
        io: &Handle,
        counted: &Counted,
        raises: bool,
    ) -> Result<Repaired, IoError> {
        let mut repaired = Repaired::default();
        let regions = self.state().table.len();
        for region in 0..regions {
            self.make_room(io).await?;
            self.correct_block(io, region, (counted, raises), &mut repaired).await?;
        }
        if !raises {
            return Ok(repaired);
        }
        let rest = self.not_counted(counted);
        let bytes = |run: &Range<u64>| {
            let cluster_bits = self.state().geometry.cluster_bits;
            run.start << cluster_bits..run.end << cluster_bits
        };
        rest.iter().for_each(|run| self.reserve(bytes(run)));
        for run in &rest {
            self.claim(io, bytes(run).start, run.end - run.start).await?;
            repaired.raised += run.end - run.start;
        }
        rest.iter().for_each(|run| self.unreserve(bytes(run)));
        // New blocks have been counted, clusters of theirs with more than one reference as one.
        for (cluster, count) in counted.references.all().filter(|(_, count)| *count > 1) {
            let region = self.state().locate(cluster).0;
            self.make_room(io).await?;
            let _turn = self.turn.lock(0..1).await;
            self.load(io, region, &(0..0)).await?;
            let mut state = self.state();
            if state.count(cluster).is_some_and(|stored| stored < count) {
                state.set(cluster, count);
            }
        }
        Ok(repaired)
    }

    /// What one block counts.
    async fn correct_block(
        &self,
        io: &Handle,
        region: usize,
        (counted, raises): (&Counted, bool),
        repaired: &mut Repaired,
    ) -> Result<(), IoError> {
        let _turn = self.turn.lock(0..1).await;
        self.load(io, region, &(0..0)).await?;
        let mut state = self.state();
        if state.place(region) == Place::Nowhere {
            return Ok(());
        }
        let first = region as u64 * state.per_region();
        // Past the end of a file that is cut off clusters may be in use: they stay as they are, as with QEMU.
        for cluster in first..counted.clusters.min(first + state.per_region()) {
            let (stored, count) = (state.count(cluster).ok_or(IoError::Io)?, counted.references.get(cluster));
            match stored.cmp(&count) {
                Ordering::Equal => continue,
                Ordering::Less if !raises => continue,
                Ordering::Less => repaired.raised += 1,
                Ordering::Greater => repaired.lowered += 1,
            }
            state.set(cluster, count);
            if count == 0 {
                state.note_free(cluster);
            }
        }
        Ok(())
    }

    /// Clusters in use that no block counts.
    fn not_counted(&self, counted: &Counted) -> Vec<Range<u64>> {
        let state = self.state();
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (cluster, _) in counted.references.all() {
            if state.place(state.locate(cluster).0) != Place::Nowhere {
                continue;
            }
            match runs.last_mut().filter(|run| run.end == cluster) {
                Some(run) => run.end = cluster + 1,
                None => runs.push(cluster..cluster + 1),
            }
        }
        runs
    }
}
