//! A disk's tables, shared with a snapshot from now on: counted once more, and nothing of them may be written in place.
//!
//! What is shared is what the file has: a table is written back first. Flags are taken away in memory and in the file; an
//! entry without one is at worst copied needlessly. Nobody reads the table from the file meanwhile.

use super::Snapshot;
use crate::error::IoError;
use crate::node::points::Points;
use crate::node::qcow2::entry::COPIED;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::Tables;
use crate::node::qcow2::own_header::ChangeError;
use crate::reactor::Handle;

/// Why an image's snapshots are what they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotFault {
    /// Clusters in an external data file are shared with nobody.
    #[error("Operation not supported")]
    Outside,
    /// The storage's; [`IoError::Invalid`] where a reference count cannot be larger.
    #[error(transparent)]
    Io(#[from] IoError),
    /// An entry leads nowhere it may.
    #[error("The image is corrupt: repair it first")]
    Corrupt,
    /// The header cannot be changed.
    #[error(transparent)]
    Header(#[from] ChangeError),
    /// More than an image can have.
    #[error("File too large")]
    TooMany,
    /// What it would show is not what its bitmaps mark.
    #[error("Device has active dirty bitmaps")]
    Bitmaps,
    /// It is not there, or cannot be read.
    #[error(transparent)]
    Snapshot(#[from] super::SnapshotError),
}

impl Image {
    /// Whether the image can have snapshots.
    ///
    /// # Errors
    /// [`SnapshotFault::Outside`].
    pub fn can_have_snapshots(&self) -> Result<(), SnapshotFault> {
        if self.geometry.external_data { Err(SnapshotFault::Outside) } else { Ok(()) }
    }

    /// The snapshots that are told of: none where they keep nothing.
    pub fn shown_snapshots(&self) -> Vec<Snapshot> {
        self.can_have_snapshots().map_or_else(|_| Vec::new(), |()| self.snapshots().snapshots.clone())
    }

    /// Shares the L2 table of this number, if there is one; its L1 entry.
    pub(super) async fn share_table(&self, io: &Handle, index: usize, points: &Points) -> Result<u64, SnapshotFault> {
        let (span, at) = (self.geometry.l2_span(), index as u64);
        let start = at.saturating_mul(span);
        let _clusters = self.clusters.lock(start..start.saturating_add(span)).await;
        let _turn = self.table_turns.lock(at..at + 1).await;
        while self.tables.pin(index).is_some_and(|pin| pin.is_dirty()) {
            self.flush(io, points).await?;
        }
        let _alone = self.tables.keep_out(index).await;
        let found = self.tables.table(index).map_err(|_| SnapshotFault::Corrupt)?;
        let Some((host, _)) = found else { return Ok(0) };
        let pin = self.tables.pin(index);
        let words = match &pin {
            Some(pin) => pin.copy(),
            None => self.tables.read_table(io, index).await?.ok_or(SnapshotFault::Corrupt)?,
        };
        self.raise_table(io, host, &words).await?;
        let word = self.tables.l1(index) & !COPIED;
        self.take_flags_away(io, host, words, pin.as_ref()).await.inspect_err(|_| {
            // It has no flag any more that says otherwise.
            self.tables.set_l1(index, word);
        })?;
        self.change_l1(index, word);
        Ok(word)
    }

    /// Makes no entry of a table say that its cluster may be written in place.
    async fn take_flags_away(
        &self,
        io: &Handle,
        host: u64,
        mut words: Vec<u64>,
        pin: Option<&crate::node::qcow2::l2::Pin<'_>>,
    ) -> Result<(), IoError> {
        let mut changed = false;
        for index in (0..words.len()).step_by(self.geometry.entry_words()) {
            let Some(word) = words.get_mut(index) else { continue };
            if *word & COPIED != 0 && !self.geometry.external_data {
                pin.into_iter().for_each(|pin| pin.exchange(index, *word, *word & !COPIED));
                *word &= !COPIED;
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        for index in (0..words.len()).step_by(self.geometry.entry_words()) {
            words.get_mut(index).into_iter().for_each(|word| *word = Tables::unmarked(*word));
        }
        self.store.write_words(io, host, &words).await
    }

    /// Changes an L1 entry whose table stays where it is, in memory, and in the file with the next write-back cycle.
    pub(super) fn change_l1(&self, index: usize, word: u64) {
        self.tables.set_l1(index, word);
        self.doubt_l1_entry(index, word);
    }
}
