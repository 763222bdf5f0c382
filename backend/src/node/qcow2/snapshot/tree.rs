//! All that a snapshot's L1 table leads to, counted once more or once less.

use super::share::SnapshotFault;
use crate::error::IoError;
use crate::node::qcow2::entry::{Entry, Geometry};
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;
use std::ops::Range;

/// Clusters of the file that the entries of an L2 table lead to, in runs; `None` where an entry leads nowhere it may.
pub(super) fn runs(geometry: Geometry, words: &[u64]) -> Option<Vec<Range<u64>>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for word in geometry.entries(words) {
        let bytes = match geometry.decode(word) {
            Entry::Invalid => return None,
            Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } => host..host + geometry.cluster(),
            Entry::Compressed { host, len } => host..host + len,
            Entry::Unallocated | Entry::Zero { host: None, .. } => continue,
        };
        if geometry.external_data {
            continue;
        }
        let clusters = bytes.start >> geometry.cluster_bits..geometry.clusters(bytes.end);
        match runs.last_mut().filter(|last| last.end == clusters.start) {
            Some(last) => last.end = clusters.end,
            None => runs.push(clusters),
        }
    }
    Some(runs)
}

impl Image {
    /// Counts an L2 table and all that it leads to once more, or nothing of it.
    pub(super) async fn raise_table(&self, io: &Handle, host: u64, words: &[u64]) -> Result<(), SnapshotFault> {
        let runs = runs(self.geometry, words).ok_or(SnapshotFault::Corrupt)?;
        let bits = self.geometry.cluster_bits;
        self.refcounts.raise(io, host, 1).await?;
        for (number, run) in runs.iter().enumerate() {
            let Err(error) = self.refcounts.raise(io, run.start << bits, run.end - run.start).await else { continue };
            for raised in runs.iter().take(number) {
                self.refcounts.release(io, raised.start << bits, raised.end - raised.start).await?;
            }
            self.refcounts.release(io, host, 1).await?;
            self.look_at_counts(io).await;
            return Err(error.into());
        }
        Ok(())
    }

    /// Counts an L2 table of a snapshot and all that it leads to once less.
    async fn lower_table(&self, io: &Handle, host: u64) -> Result<(), IoError> {
        let words = self.store.read_words(io, host, self.geometry.l2_words()).await?;
        let bits = self.geometry.cluster_bits;
        // What leads nowhere it may is not counted.
        for run in runs(self.geometry, &words).ok_or(IoError::Io)? {
            self.refcounts.release(io, run.start << bits, run.end - run.start).await?;
        }
        let table = host..host + self.geometry.cluster();
        if self.tables.metadata().guards_inactive() && self.refcounts.get(io, host).await? == 1 {
            self.tables.metadata().remove(table.clone());
            self.refcounts.unprotect(table);
        }
        self.refcounts.release(io, host, 1).await.map(drop)
    }

    /// Counts all L2 tables that these L1 entries lead to once less, and what those lead to. Goes on after an error, of
    /// which it returns the first.
    pub(super) async fn lower_tree(&self, io: &Handle, l1: &[u64]) -> Result<(), IoError> {
        let mut result = Ok(());
        for word in l1 {
            let lowered = match self.geometry.decode_l1(*word) {
                Ok(None) => Ok(()),
                Ok(Some((host, _))) if host + self.geometry.cluster() <= self.store.node().length() => {
                    self.lower_table(io, host).await
                }
                _ => Err(IoError::Io),
            };
            result = result.and(lowered);
        }
        self.look_at_counts(io).await;
        result
    }
}
