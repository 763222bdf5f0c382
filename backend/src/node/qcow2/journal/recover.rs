//! Making the changes that the process before this one has noted and not written back.
//!
//! All of them are looked at before the first is made: what does not fit the image is not believed at all. Done twice
//! they come to the same, so that this may be killed, too.

use super::record::Change;
use super::runs::Runs;
use super::{Full, Journal};
use crate::error::IoError;
use crate::node::points::Points;
use crate::node::qcow2::entry::Entry;
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;
use std::ops::Range;

/// Why changes were not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// They lead where nothing of a guest can be.
    #[error("it does not fit the image")]
    Misfit,
    /// The storage's.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl Image {
    /// Notes changes of entries and makes them, so that they are not lost with this process.
    ///
    /// # Errors
    /// Those of a flush, which a full journal takes first. Nothing has changed then.
    pub(in crate::node::qcow2) async fn note(
        &self,
        io: &Handle,
        changes: &[Change],
        points: &Points,
        change: impl Fn(),
    ) -> Result<(), IoError> {
        let Some(journal) = self.journal.load_full() else {
            change();
            return Ok(());
        };
        while let Err(Full) = journal.note(changes, &change) {
            self.flush(io, points).await?;
        }
        Ok(())
    }

    /// Makes all changes of a journal; they are stable then. Returns the number of guest clusters. Nobody may be using
    /// the image yet.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub(in crate::node::qcow2) async fn recover(&self, io: &Handle, journal: &Journal) -> Result<u64, RecoverError> {
        let runs = Runs::of(journal.changes());
        if !runs.iter().all(|run| self.fits(run)) {
            return Err(RecoverError::Misfit);
        }
        let mut clusters = 0;
        let points = Points::default();
        self.claim_hosts(io, &runs).await?;
        for run in runs.iter() {
            self.redo(io, *run, &points).await?;
            clusters += u64::from(run.count);
        }
        self.flush(io, &points).await?;
        Ok(clusters)
    }

    /// Whether a run is of clusters that the image has, and leads to guest clusters of the file or to none.
    fn fits(&self, run: &Change) -> bool {
        let clusters = self.geometry.clusters(self.length());
        let known = |word| !matches!(self.geometry.decode(word), Entry::Invalid | Entry::Compressed { .. });
        let (first, last) = (run.word, run.word_of(run.end() - 1));
        let step = u64::from(run.step);
        let inside = match self.hosts(run) {
            None => run.step == 0,
            Some(hosts) => {
                let steady = step == self.geometry.cluster() || run.count == 1;
                let there = hosts.end <= self.store.node().length() && !self.tables.metadata().overlaps(hosts);
                steady && (there || self.geometry.external_data)
            }
        };
        run.end() <= clusters && known(first) && known(last) && inside
    }

    /// The bytes of the data file that a run leads to.
    fn hosts(&self, run: &Change) -> Option<Range<u64>> {
        let host = self.host_of(run.word)?;
        Some(host..host.saturating_add(u64::from(run.count) * self.geometry.cluster()))
    }

    /// The cluster of the data file that an entry leads to.
    fn host_of(&self, word: u64) -> Option<u64> {
        match self.geometry.decode(word) {
            Entry::Data { host, .. } => Some(host),
            Entry::Zero { host, .. } => host,
            _ => None,
        }
    }

    /// Counts all clusters that runs lead to before the first is taken for anything else.
    async fn claim_hosts(&self, io: &Handle, runs: &Runs) -> Result<(), IoError> {
        if self.geometry.external_data {
            return Ok(());
        }
        let hosts: Vec<Range<u64>> = runs.iter().filter_map(|run| self.hosts(run)).collect();
        hosts.iter().for_each(|hosts| self.refcounts.reserve(hosts.clone()));
        for hosts in &hosts {
            let clusters = self.geometry.clusters(hosts.end - hosts.start);
            self.refcounts.claim(io, hosts.start, clusters).await?;
        }
        hosts.into_iter().for_each(|hosts| self.refcounts.unreserve(hosts));
        Ok(())
    }

    /// Gives a run's clusters the entries it says, a table at a time.
    async fn redo(&self, io: &Handle, run: Change, points: &Points) -> Result<(), IoError> {
        let geometry = self.geometry;
        let per_table = geometry.l2_entries() as u64;
        let mut first = run.first;
        while first < run.end() {
            let end = run.end().min((first / per_table + 1) * per_table);
            let start = first * geometry.cluster();
            let table = self.table_for_change(io, geometry.l1_index(start), points).await?;
            for cluster in first..end {
                let index = geometry.l2_index(cluster * geometry.cluster());
                let (before, word) = (table.word(index), run.word_of(cluster));
                if before != word {
                    table.set(index, word);
                    self.free_replaced(geometry.decode(before), self.host_of(word), false);
                }
            }
            first = end;
        }
        Ok(())
    }
}
