//! L1 tables of another length. No write-back cycle runs meanwhile.

use super::{ResizeError, step};
use crate::error::IoError;
use crate::node::qcow2::freed::Freed;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::metadata::Structure;
use crate::node::qcow2::own_header::ChangeError;
use crate::node::qcow2::writeback::ENTRIES_PER_SECTOR;
use crate::reactor::Handle;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;

const GROWING: &str = "Failed to grow the L1 table";

impl Image {
    /// Gives the image an L1 table that is long enough for a disk of this size, if its own is not: the new one is
    /// stable before the header leads there, and the old one is free when it does no more.
    pub(super) async fn lengthen_l1(&self, io: &Handle, size: u64) -> Result<(), ResizeError> {
        let _pause = self.writeback.pause().await;
        let entries = self.geometry.l1_entries(size);
        let mut words = self.writeback.l1_in_file().clone();
        let old = self.l1_clusters(words.len() as u64);
        let length = byte_count_of(entries)?;
        if length <= words.len() {
            return Ok(());
        }
        if !self.tables.grow(length) {
            return Err(ResizeError::NoMemory);
        }
        words.resize(length, 0);
        let place = self.take_l1(io, entries).await.map_err(step(GROWING))?;
        if let Err(error) = self.write_l1_table(io, place.start, &words).await {
            self.give_l1_back(io, place).await;
            return Err(ResizeError::Step(GROWING, error));
        }
        let changed = self.change_header(io, |header| {
            header.l1_offset = place.start;
            // At most 32 MiB of entries.
            header.l1_entries = u32::try_from(entries).unwrap_or(u32::MAX);
        });
        if let Err(error) = changed.await {
            // After a failed write the file may have either header: only one that was not written leaves it free.
            if let ChangeError::Header(_) = error {
                self.give_l1_back(io, place).await;
            }
            return Err(ResizeError::Header(GROWING, error));
        }
        self.l1_offset.store(place.start, Ordering::Release);
        *self.writeback.l1_in_file() = words;
        if !old.is_empty() {
            self.tables.metadata().remove(old.clone());
            self.refcounts.unprotect(old.clone());
            let clusters = self.geometry.clusters(old.end - old.start);
            self.freed.add(Freed { host: old.start, clusters, punch: false });
        }
        Ok(())
    }

    /// Takes L2 tables away that are past the end of a disk of this size and lead nowhere, in the file and in memory.
    /// It need not be stable before the size is: their clusters are free only after a write-back cycle.
    pub(super) async fn drop_tables(&self, io: &Handle, size: u64) -> Result<(), IoError> {
        let _pause = self.writeback.pause().await;
        // No more than the table has.
        let first = usize::try_from(self.geometry.l1_entries(size)).unwrap_or(usize::MAX);
        let before = self.writeback.l1_in_file().clone();
        let lost = before.iter().enumerate().skip(first).filter(|(_, word)| **word != 0);
        let lost: Vec<(usize, u64)> = lost.map(|(index, word)| (index, *word)).collect();
        {
            let mut words = self.writeback.l1_in_file();
            lost.iter().for_each(|(index, _)| words[*index] = 0);
        }
        let sectors: BTreeSet<usize> = lost.iter().map(|(index, _)| index / ENTRIES_PER_SECTOR).collect();
        for sector in &sectors {
            if let Err(error) = self.write_l1_sector(io, *sector).await {
                // The file may have none of them: it is told again.
                *self.writeback.l1_in_file() = before;
                self.writeback.l1_unsure().extend(sectors);
                return Err(error);
            }
        }
        for (index, _) in lost {
            let Ok(Some((host, _))) = self.tables.table(index) else { continue };
            self.tables.set_l1(index, 0);
            self.let_go_of_table(io, host).await;
        }
        Ok(())
    }

    /// Where the file has the L1 table of so many entries.
    fn l1_clusters(&self, entries: u64) -> Range<u64> {
        let start = self.l1_offset.load(Ordering::Acquire);
        let clusters = self.geometry.clusters(entries * 8);
        start..start + clusters * self.geometry.cluster()
    }

    /// Clusters for a table of so many entries, which the file reaches.
    async fn take_l1(&self, io: &Handle, entries: u64) -> Result<Range<u64>, IoError> {
        let run = self.refcounts.allocate_contiguous(io, self.geometry.clusters(entries * 8)).await?;
        let place = run.host..run.host + run.clusters * self.geometry.cluster();
        let made = self.tables.metadata().make(Structure::ActiveL1, place.clone(), run.fresh);
        self.tables.forbid_new_metadata();
        if !made {
            // The counts of a corrupt image call a table free.
            self.refcounts.release(io, run.host, run.clusters).await?;
            return Err(IoError::Io);
        }
        if let Err(error) = self.store.grow(io, place.end).await {
            self.give_l1_back(io, place).await;
            return Err(error);
        }
        Ok(place)
    }

    /// A table as the file is to have it, and the counts of its clusters; stable.
    async fn write_l1_table(&self, io: &Handle, offset: u64, words: &[u64]) -> Result<(), IoError> {
        self.store.write_words(io, offset, words).await?;
        self.refcounts.write_back(io).await?;
        self.store.flush(io).await
    }

    /// Gives clusters back that no header has led to. What cannot be given back is leaked, not lost.
    async fn give_l1_back(&self, io: &Handle, place: Range<u64>) {
        self.tables.metadata().remove(place.clone());
        let clusters = self.geometry.clusters(place.end - place.start);
        if let Err(error) = self.refcounts.release(io, place.start, clusters).await {
            tracing::warn!(%error, offset = place.start, clusters, "clusters of an image could not be freed: they leak");
        }
    }
}

fn byte_count_of(entries: u64) -> Result<usize, ResizeError> {
    usize::try_from(entries).map_err(|_| ResizeError::TooLarge)
}
