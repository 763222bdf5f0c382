//! Making a disk what it was at a snapshot. Nobody may be using the image, which is to be opened again then.
//!
//! All that the snapshot leads to is counted once more, and stable, before the header leads there by an L1 table of its
//! own; with that it says that counts may be wrong. What the disk was is counted off when the image is opened and
//! repaired, and until then no harm is done.

use super::share::SnapshotFault;
use crate::error::IoError;
use crate::node::points::Points;
use crate::node::qcow2::entry::COPIED;
use crate::node::qcow2::header::bits;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::metadata::Structure;
use crate::node::qcow2::open::OpenError;
use crate::reactor::Handle;

impl Image {
    /// Has the header lead to what the disk was at this snapshot, by its id or else its name. Nothing is written to the
    /// image any more before it is opened again.
    ///
    /// # Errors
    /// There is no such snapshot, or it cannot be read; bitmaps would mark something else than what changes; the
    /// storage's. The disk is what it was.
    pub async fn apply_snapshot(&self, io: &Handle, wanted: &str, points: &Points) -> Result<(), SnapshotFault> {
        self.can_have_snapshots()?;
        if self.has_stored_bitmaps() {
            return Err(SnapshotFault::Bitmaps);
        }
        let table = self.snapshots();
        let header = table.find(wanted)?.header(&self.header(), self.file().length())?;
        let mut words = match header.l1_entries {
            0 => Vec::new(),
            entries => self.store.read_words(io, header.l1_offset, entries as usize).await?,
        };
        words.iter_mut().for_each(|word| *word &= !COPIED);
        self.flush(io, points).await?;
        let mut raised = 0;
        let applied = self.lead_to(io, &words, header.size, &mut raised, points).await;
        if applied.is_err() {
            // If it cannot be counted off it leaks.
            let _ = self.lower_tree(io, words.get(..raised).unwrap_or_default()).await;
        }
        applied
    }

    async fn lead_to(
        &self,
        io: &Handle,
        words: &[u64],
        size: u64,
        raised: &mut usize,
        points: &Points,
    ) -> Result<(), SnapshotFault> {
        for word in words {
            let found = self.geometry.decode_l1(*word).map_err(|_| SnapshotFault::Corrupt)?;
            if let Some((host, _)) = found {
                let table = self.store.read_words(io, host, self.geometry.l2_words()).await?;
                self.raise_table(io, host, &table).await?;
            }
            *raised += 1;
        }
        let place = self.take_place(io, Structure::ActiveL1, words.len() as u64 * 8).await?;
        if !words.is_empty() {
            self.store.write_words(io, place.start, words).await?;
        }
        self.flush(io, points).await?;
        let entries = u32::try_from(words.len()).map_err(|_| IoError::Invalid)?;
        let changed = self.change_header(io, |header| {
            (header.l1_offset, header.l1_entries, header.size) = (place.start, entries, size);
            if header.version > 2 {
                header.incompatible |= bits::INCOMPATIBLE_DIRTY;
            }
        });
        changed.await?;
        self.soundness.end_writing();
        Ok(())
    }

    /// Makes counts and flags right, whether or not the image says that they may not be. Nobody may be using it yet.
    ///
    /// # Errors
    /// As when an image is opened that says so.
    pub async fn settle_after_apply(&self, io: &Handle) -> Result<(), OpenError> {
        Box::pin(self.repair(io, None)).await
    }
}
