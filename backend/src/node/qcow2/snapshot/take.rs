//! Taking a snapshot of a disk that guests go on writing to.
//!
//! The point in time is a hold: writes that come after it wait at a [`Gate`] until the part of the disk that they are
//! about is shared. Those from before end first, in what the snapshot and the disk will share. From before the first
//! count is changed until the header names the snapshot it says that counts may be wrong: whoever opens the image after
//! a crash in between makes them right, and there is no snapshot.

use super::encode::{self, Description};
use super::share::SnapshotFault;
use super::{Snapshot, SnapshotTable};
use crate::error::IoError;
use crate::node::gate::Gate;
use crate::node::points::Points;
use crate::node::qcow2::header::MAX_SNAPSHOTS;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::metadata::Structure;
use crate::node::qcow2::own_header::ChangeError;
use crate::reactor::Handle;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A snapshot on its way: space is there, nothing is shared.
pub struct Taking {
    l1: Range<u64>,
    /// What the disk's writes wait at from the point in time on.
    pub gate: Arc<Gate>,
}

impl Image {
    /// Makes room for one more snapshot, while guests go on. To be followed by [`Image::take_snapshot`] or
    /// [`Image::abandon_snapshot`].
    ///
    /// # Errors
    /// The storage's, and what the image cannot have; nothing has changed.
    pub async fn begin_snapshot(&self, io: &Handle, points: &Points) -> Result<Taking, SnapshotFault> {
        if self.is_read_only() {
            return Err(IoError::Permission.into());
        }
        self.can_have_snapshots()?;
        if self.snapshots().snapshots.len() >= MAX_SNAPSHOTS as usize {
            return Err(SnapshotFault::TooMany);
        }
        let entries = self.header().l1_entries;
        let is_empty = (0..self.tables.l1_entries()).all(|index| self.tables.l1(index) == 0);
        if self.refcounts.most() < 2 && !is_empty {
            return Err(IoError::Invalid.into());
        }
        // What is not written back now is when writes wait.
        self.flush(io, points).await?;
        let l1 = self.take_place(io, Structure::InactiveL1, u64::from(entries) * 8).await?;
        if let Err(error) = self.doubt_counts(io).await {
            self.give_place_back(io, &l1).await;
            return Err(error.into());
        }
        Ok(Taking { l1, gate: Arc::new(Gate::closed()) })
    }

    /// Undoes [`Image::begin_snapshot`].
    pub async fn abandon_snapshot(&self, io: &Handle, taking: Taking, points: &Points) {
        taking.gate.open_to(u64::MAX);
        self.give_place_back(io, &taking.l1).await;
        self.settle_counts(io, points).await.unwrap_or_else(|error| self.tell_unsettled(&error));
    }

    /// Takes the snapshot: after the point in time, when no write from before it is under way.
    ///
    /// # Errors
    /// The storage's; there is no such snapshot then.
    pub async fn take_snapshot(
        &self,
        io: &Handle,
        taking: Taking,
        description: &Description,
        points: &Points,
    ) -> Result<Snapshot, SnapshotFault> {
        let mut words = Vec::new();
        let shared = self.share(io, &taking, points, &mut words).await;
        taking.gate.open_to(u64::MAX);
        let named = match shared {
            Ok(()) => self.name_snapshot(io, &taking.l1, &words, description, points).await,
            Err(error) => Err(error),
        };
        match &named {
            Ok(_) => {}
            // The file may name it.
            Err(error @ SnapshotFault::Header(ChangeError::Io(_))) => self.tell_unsettled(error),
            Err(_) => self.undo(io, &taking.l1, &words, points).await,
        }
        named
    }

    /// Shares all tables; `words` are the entries of those that are.
    async fn share(
        &self,
        io: &Handle,
        taking: &Taking,
        points: &Points,
        words: &mut Vec<u64>,
    ) -> Result<(), SnapshotFault> {
        // Another one of the same moment may have said that they are right.
        self.doubt_counts(io).await?;
        self.flush(io, points).await?;
        let entries = usize::try_from((taking.l1.end - taking.l1.start) / 8).unwrap_or(0);
        for index in 0..entries {
            words.push(self.share_table(io, index, points).await?);
            taking.gate.open_to((index as u64 + 1).saturating_mul(self.geometry.l2_span()));
        }
        Ok(())
    }

    async fn name_snapshot(
        &self,
        io: &Handle,
        l1: &Range<u64>,
        words: &[u64],
        description: &Description,
        points: &Points,
    ) -> Result<Snapshot, SnapshotFault> {
        if !words.is_empty() {
            self.store.write_words(io, l1.start, words).await?;
        }
        // All counts, and all flags that are gone.
        self.flush(io, points).await?;
        let SnapshotTable { mut snapshots, .. } = SnapshotTable::clone(&self.snapshots());
        let snapshot = Snapshot::new(encode::next_id(&snapshots), description, l1, self.length());
        snapshots.push(snapshot.clone());
        self.name_snapshots(io, snapshots, true).await?;
        Ok(snapshot)
    }

    /// Nothing is shared with a snapshot that came to nothing. What cannot be undone leaks until the image is opened
    /// again.
    async fn undo(&self, io: &Handle, l1: &Range<u64>, words: &[u64], points: &Points) {
        let lowered = self.lower_tree(io, words).await;
        self.give_place_back(io, l1).await;
        let flagged = self.give_flags_back(io, points).await;
        let settled = match lowered.and(flagged) {
            Ok(()) => self.settle_counts(io, points).await,
            Err(error) => Err(error.into()),
        };
        settled.unwrap_or_else(|error| self.tell_unsettled(&error));
    }

    /// Makes all counts and flags stable, and says so.
    pub(super) async fn settle_counts(&self, io: &Handle, points: &Points) -> Result<(), SnapshotFault> {
        self.flush(io, points).await?;
        Ok(self.trust_counts(io).await?)
    }

    /// Something has failed: counts are right again when the image is opened next.
    pub(super) fn tell_unsettled(&self, error: &SnapshotFault) {
        self.unsettled.store(true, Ordering::Release);
        let below = self.file();
        tracing::warn!(file = below.name(), %error, "the reference counts of an image are repaired when it is opened next");
    }
}
