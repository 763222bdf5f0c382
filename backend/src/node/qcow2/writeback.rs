//! The write-back cycle: what is in memory becomes stable, in an order in which a crash at any moment harms nobody.
//!
//! 1. The changed L2 tables are copied, then the reference counts: these cover what those lead to.
//! 2. Reference counts are written, and tables that no stable L1 entry names yet.
//! 3. Flush: guest data, counts and new tables are stable before anything leads to them.
//! 4. The other tables, then the L1 entries.
//! 5. Flush.
//!
//! A flush joins only a cycle that began after it came. If a cycle fails, what it was to write counts as changed again.

use super::freed::{Freed, in_runs};
use super::image::Image;
use super::l2::Pin;
use crate::epoch::Passage;
use crate::error::IoError;
use crate::io::Memory;
use crate::node::points::Points;
use crate::node::{Kind, Request};
use crate::range_lock::{Guard, RangeLock};
use crate::reactor::Handle;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// L1 entries in a sector, the smallest piece that is written.
pub(super) const ENTRIES_PER_SECTOR: usize = 64;

/// Whose turn it is, how many cycles have begun, and the L1 table as the file has it.
pub struct WriteBack {
    turn: RangeLock,
    begun: AtomicU64,
    ended_well: AtomicU64,
    l1_in_file: Mutex<Vec<u64>>,
    /// Sectors of it that the file may not have: writing them has failed, which may have changed them all the same.
    l1_unsure: Mutex<BTreeSet<usize>>,
}

/// A changed table as it was when it was copied; in memory until the file has it.
struct Copied<'a> {
    index: usize,
    host: u64,
    words: Vec<u64>,
    pin: Pin<'a>,
}

impl WriteBack {
    /// Of an image whose file has this L1 table.
    pub fn new(l1: Vec<u64>) -> Self {
        Self {
            turn: RangeLock::default(),
            begun: AtomicU64::new(0),
            ended_well: AtomicU64::new(0),
            l1_in_file: Mutex::new(l1),
            l1_unsure: Mutex::default(),
        }
    }

    /// Waits until no cycle runs; none begins as long as the guard lives.
    pub(super) async fn pause(&self) -> Guard<'_> {
        self.turn.lock(0..1).await
    }

    pub(super) fn l1_unsure(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.l1_unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The L1 table as the file has it, or may have it.
    pub(super) fn l1_in_file(&self) -> MutexGuard<'_, Vec<u64>> {
        self.l1_in_file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Image {
    /// Makes all that has ended stable.
    ///
    /// # Errors
    /// The storage's; nothing that was not stable before can be relied on to be.
    pub(super) async fn flush(&self, io: &Handle, points: &Points) -> Result<(), IoError> {
        self.writable()?;
        let arrived = self.writeback.begun.load(Ordering::Acquire);
        let _turn = self.writeback.pause().await;
        let begun = self.writeback.begun.load(Ordering::Acquire);
        if begun > arrived {
            // It has begun after we came, and it is over.
            return match self.writeback.ended_well.load(Ordering::Acquire) == begun {
                true => Ok(()),
                false => Err(IoError::Io),
            };
        }
        let number = begun + 1;
        self.writeback.begun.store(number, Ordering::Release);
        tracing::trace!("write-back: begins");
        let freed = self.freed.begin();
        self.journal.load().iter().for_each(|journal| journal.begin_cycle());
        let result = self.cycle(io).await;
        tracing::trace!(ok = result.is_ok(), "write-back: ends");
        match result {
            Ok(()) => {
                // Before anything is used again that what was noted leads to.
                self.journal.load().iter().for_each(|journal| journal.end_cycle());
                self.freed.settle(freed, Passage::of(points.seats()));
            }
            Err(error) => {
                self.freed.put_back(freed);
                return Err(error);
            }
        }
        self.writeback.ended_well.store(number, Ordering::Release);
        self.give_back(io).await;
        Ok(())
    }

    async fn cycle(&self, io: &Handle) -> Result<(), IoError> {
        self.settle_header(io).await?;
        let tables = self.copy_tables();
        let result = self.write_tables(io, &tables).await;
        if result.is_err() {
            tables.iter().for_each(|table| table.pin.mark_dirty());
        }
        result
    }

    fn copy_tables(&self) -> Vec<Copied<'_>> {
        let copied = |index| {
            let (host, _) = self.tables.table(index).ok().flatten()?;
            let (pin, words) = self.tables.take_dirty(index)?;
            Some(Copied { index, host, words, pin })
        };
        self.tables.dirty().into_iter().filter_map(copied).collect()
    }

    async fn write_tables(&self, io: &Handle, tables: &[Copied<'_>]) -> Result<(), IoError> {
        tracing::trace!("write-back: counts");
        self.refcounts.write_back(io).await?;
        tracing::trace!("write-back: new tables");
        let named = |table: &&Copied<'_>| {
            let word = self.writeback.l1_in_file().get(table.index).copied().unwrap_or(0);
            self.geometry.decode_l1(word).ok().flatten().is_some_and(|(host, _)| host == table.host)
        };
        let (old, new): (Vec<_>, Vec<_>) = tables.iter().partition(named);
        for table in &new {
            self.store.write_words(io, table.host, &table.words).await?;
        }
        tracing::trace!("write-back: first flush");
        self.flush_files(io).await?;
        if tables.is_empty() && self.writeback.l1_unsure().is_empty() {
            return Ok(());
        }
        tracing::trace!("write-back: tables");
        for table in &old {
            self.store.write_words(io, table.host, &table.words).await?;
        }
        tracing::trace!("write-back: L1 table");
        self.write_l1(io, &new).await?;
        tracing::trace!("write-back: last flush");
        self.store.flush(io).await
    }

    /// Guest data in a file of its own has to be stable first, like everything else that entries lead to.
    async fn flush_files(&self, io: &Handle) -> Result<(), IoError> {
        if self.geometry.external_data {
            let flush = Request { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: Memory::empty() };
            self.data.get().handle(io, flush).await.1?;
        }
        self.store.flush(io).await
    }

    /// Writes the L1 entries of these tables, and no others: what has changed meanwhile leads to what is not stable. A
    /// write that fails may have been done: the file counts as naming these tables from now on, and is told again.
    async fn write_l1(&self, io: &Handle, tables: &[&Copied<'_>]) -> Result<(), IoError> {
        for Copied { index, host, .. } in tables.iter().copied() {
            if let Some(word) = self.writeback.l1_in_file().get_mut(*index) {
                *word = self.geometry.l1_entry(*host);
                self.writeback.l1_unsure().insert(index / ENTRIES_PER_SECTOR);
            }
        }
        let sectors = self.writeback.l1_unsure().clone();
        for sector in sectors {
            self.write_l1_sector(io, sector).await?;
            self.writeback.l1_unsure().remove(&sector);
        }
        Ok(())
    }

    /// The file may lack any L1 entry that it should have.
    pub(super) fn doubt_l1(&self) {
        let sectors = self.writeback.l1_in_file().len().div_ceil(ENTRIES_PER_SECTOR);
        self.writeback.l1_unsure().extend(0..sectors);
    }

    /// The file lacks an L1 entry that says something else of the same table.
    pub(super) fn doubt_l1_entry(&self, index: usize, word: u64) {
        if let Some(entry) = self.writeback.l1_in_file().get_mut(index) {
            *entry = word;
            self.writeback.l1_unsure().insert(index / ENTRIES_PER_SECTOR);
        }
    }

    /// Writes an L1 entry that says something else of the same table.
    pub(super) async fn correct_l1(&self, io: &Handle, index: usize) -> Result<(), IoError> {
        if let Some(word) = self.writeback.l1_in_file().get_mut(index) {
            *word = self.tables.l1(index);
        }
        self.write_l1_sector(io, index / ENTRIES_PER_SECTOR).await
    }

    /// Writes a sector of the L1 table as the file is to have it.
    pub(super) async fn write_l1_sector(&self, io: &Handle, sector: usize) -> Result<(), IoError> {
        let start = sector * ENTRIES_PER_SECTOR;
        let words: Vec<u64> = {
            let l1 = self.writeback.l1_in_file();
            l1[start..l1.len().min(start + ENTRIES_PER_SECTOR)].to_vec()
        };
        let offset = self.l1_offset.load(Ordering::Acquire) + start as u64 * 8;
        self.store.write_words(io, offset, &words).await
    }

    /// Gives back what nobody can find any more. What cannot be given back now is leaked, not lost.
    pub(super) async fn give_back(&self, io: &Handle) {
        let cluster = self.geometry.cluster();
        for Freed { host, clusters, punch } in in_runs(self.freed.take(), cluster) {
            if punch {
                let len = clusters * cluster;
                let discard = Request { kind: Kind::Discard, fua: false, offset: host, len, memory: Memory::empty() };
                // Advice: storage that does not take it keeps the space.
                let _ = self.data.get().handle(io, discard).await;
            }
            if let Err(error) = self.refcounts.release(io, host, clusters).await {
                tracing::warn!(%error, offset = host, clusters, "clusters of an image could not be freed: they leak");
                Box::pin(self.look_at_counts(io)).await;
            }
        }
    }
}
