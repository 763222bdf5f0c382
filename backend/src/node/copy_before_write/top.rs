//! Points in time of the topmost image alone: what the images below have is not copied, because a target over these shows
//! it anyway.

use super::CopyBeforeWrite;
use crate::error::IoError;
use crate::reactor::Handle;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is left out, if something is.
#[derive(Default)]
pub(super) struct Top {
    /// Bytes that are copied if the topmost image has anything of them; 0 copies everything.
    cluster: AtomicU64,
    /// Bytes that were not copied, in whole clusters.
    left_out: AtomicU64,
}

impl CopyBeforeWrite {
    /// Has copies leave out whole clusters of so many bytes, a power of two, of which the topmost image has nothing. Before
    /// it is installed.
    pub fn leave_out_below(&self, cluster: u64) {
        self.top.cluster.store(cluster, Ordering::SeqCst);
    }

    /// Copies leave nothing out any more: what they would have is not owed.
    pub fn copy_all_of_it(&self) {
        self.top.cluster.store(0, Ordering::SeqCst);
    }

    /// Bytes that were left out, in whole clusters.
    pub fn left_out(&self) -> u64 {
        self.top.left_out.load(Ordering::SeqCst)
    }

    /// How far from `offset` on the topmost image has something in every cluster, or nothing in any.
    ///
    /// # Errors
    /// The storage's.
    pub async fn top_run(&self, io: &Handle, offset: u64) -> Result<(u64, bool), IoError> {
        let (cluster, len) = (self.top.cluster.load(Ordering::SeqCst).max(1), self.map.len());
        let start = offset - offset % cluster;
        let first = self.source.status(io, start, len - start).await?;
        let (own, end) = (first.depth == 1, start.saturating_add(first.len.max(1)));
        if own {
            return Ok((end.checked_next_multiple_of(cluster).unwrap_or(len).min(len), true));
        }
        let whole = if end >= len { len } else { end - end % cluster };
        if whole > offset {
            return Ok((whole, false));
        }
        // It changes within a cluster.
        let end = start.saturating_add(cluster).min(len);
        Ok((end, self.has_of_top(io, start..end).await?))
    }

    /// Whether the topmost image has something in the clusters that a range touches.
    ///
    /// # Errors
    /// The storage's.
    pub async fn is_of_top(&self, io: &Handle, range: Range<u64>) -> Result<bool, IoError> {
        let cluster = self.top.cluster.load(Ordering::SeqCst).max(1);
        let end = range.end.checked_next_multiple_of(cluster).unwrap_or(u64::MAX).min(self.map.len());
        self.has_of_top(io, range.start - range.start % cluster..end).await
    }

    async fn has_of_top(&self, io: &Handle, range: Range<u64>) -> Result<bool, IoError> {
        let mut at = range.start;
        while at < range.end {
            let found = self.source.status(io, at, range.end - at).await?;
            if found.depth == 1 {
                return Ok(true);
            }
            at = at.saturating_add(found.len.max(1));
        }
        Ok(false)
    }

    /// Says of a claimed run whether it is to be copied after all; if not, it is left out.
    pub fn settle_below(&self, run: Range<u64>, own: bool) {
        if !own {
            self.count_left_out(&run);
        }
        self.settle(run, !own);
    }

    /// Whether a claimed run is left out, for whoever would copy it.
    ///
    /// # Errors
    /// The storage's.
    pub(super) async fn leaves_out(&self, io: &Handle, run: &Range<u64>) -> Result<bool, IoError> {
        if self.top.cluster.load(Ordering::SeqCst) == 0 || self.is_of_top(io, run.clone()).await? {
            return Ok(false);
        }
        self.count_left_out(run);
        Ok(true)
    }

    fn count_left_out(&self, run: &Range<u64>) {
        let cluster = self.top.cluster.load(Ordering::SeqCst).max(1);
        let last = run.end == self.map.len();
        let end = if last { run.end.checked_next_multiple_of(cluster).unwrap_or(run.end) } else { run.end };
        self.top.left_out.fetch_add(end - run.start, Ordering::SeqCst);
    }
}
