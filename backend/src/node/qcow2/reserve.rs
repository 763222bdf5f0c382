//! Clusters taken ahead of their use, so that not every allocating write asks for its own: those of one run follow each
//! other in the file. What is left at the end is given back; after a crash it is leaked, which is harmless.

use super::image::Image;
use super::refcount::Run;
use crate::error::IoError;
use crate::reactor::Handle;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes taken ahead.
const AHEAD: u64 = 1 << 20;

/// Runs of clusters with reference count 1 that no table leads to.
#[derive(Default)]
pub struct Reserve(Mutex<Vec<Run>>);

impl Reserve {
    /// Up to `want` clusters in a row of those that are there.
    fn take(&self, want: u64, cluster: u64) -> Option<Run> {
        let mut runs = self.locked();
        let run = runs.last_mut()?;
        let taken = Run { clusters: want.min(run.clusters), ..*run };
        run.host += taken.clusters * cluster;
        run.clusters -= taken.clusters;
        if run.clusters == 0 {
            runs.pop();
        }
        Some(taken)
    }

    fn add(&self, run: Run) {
        if run.clusters > 0 {
            self.locked().push(run);
        }
    }

    /// All that is left, when the image is closed.
    pub fn drain(&self) -> Vec<Run> {
        std::mem::take(&mut *self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Image {
    /// Takes up to `want` clusters in a row for guest data, at least one; their reference count is 1 and the data file
    /// reaches that far.
    ///
    /// # Errors
    /// The storage's, [`IoError::NoSpace`] among them.
    pub(super) async fn take_clusters(&self, io: &Handle, want: u64) -> Result<Run, IoError> {
        let cluster = self.geometry.cluster();
        if let Some(run) = self.reserve.take(want, cluster) {
            return Ok(run);
        }
        let mut all = self.refcounts.allocate(io, want.max(AHEAD / cluster)).await?;
        self.tables.forbid_new_metadata();
        let end = all.host + all.clusters * cluster;
        if let Err(error) = self.store.grow(io, end).await {
            // A device has room for some, perhaps.
            let there = (self.store.node().length().saturating_sub(all.host) / cluster).min(all.clusters);
            self.refcounts.release(io, all.host + there * cluster, all.clusters - there).await?;
            if there == 0 {
                return Err(error);
            }
            all.clusters = there;
        }
        let taken = Run { clusters: want.min(all.clusters), ..all };
        let rest = all.clusters - taken.clusters;
        self.reserve.add(Run { host: all.host + taken.clusters * cluster, clusters: rest, ..all });
        Ok(taken)
    }

    /// Puts clusters back that were taken and not used; something may have been written to them.
    pub(super) fn put_clusters_back(&self, run: Run) {
        self.reserve.add(Run { fresh: false, ..run });
    }
}
