//! The tables that map guest clusters: the L1 table in memory, L2 tables in a [`Cache`].
//!
//! Memory is the truth, the file is written back by others. What comes from the file is checked when it comes: an entry
//! that leads outside the file or into metadata is *marked*, so that it never decodes to an offset, and unmarked when
//! its table is written back.

mod forbidden;
mod mark;
pub mod metadata;

pub use super::cache::Pin;

use super::cache::Cache;
use super::cache::words::Words;
use super::entry::{Entry, Geometry, InvalidEntry};
use super::shortcut::Shortcut;
use super::store::Store;
use crate::error::IoError;
use crate::range_lock::{Guard, RangeLock};
use crate::reactor::Handle;
use metadata::{Metadata, Structure};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// L2 tables that are kept in memory at least: several writers have one pinned each.
const TABLES_MIN: u64 = 16;

/// Where an L1 table is and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1 {
    /// Offset in the file.
    pub offset: u64,
    /// Entries; the header's, checked.
    pub entries: usize,
}

/// The L1 table and the L2 tables in memory of an open image.
pub struct Tables {
    store: Store,
    geometry: Geometry,
    shortcut: Shortcut,
    l1: Words,
    cache: Cache,
    /// Tables in memory at most, however many there are.
    max_tables: AtomicUsize,
    metadata: Arc<Metadata>,
    /// L2 tables being read, by number.
    loads: RangeLock,
    /// Of those who look at both words of an extended entry, or change them.
    both: Mutex<()>,
}

fn tables_in(cache_bytes: u64, geometry: Geometry) -> usize {
    usize::try_from((cache_bytes >> geometry.cluster_bits).max(TABLES_MIN)).unwrap_or(usize::MAX)
}

impl Tables {
    /// Reads the L1 table.
    /// `cache_bytes` bounds the L2 tables in memory. L2 tables become part of `metadata`, which has everything else
    /// already; those that are not inside the file, or on other metadata, are invalid.
    ///
    /// # Errors
    /// The storage's; [`IoError::NoMemory`] when there is none for the cache.
    pub async fn open(
        io: &Handle,
        store: Store,
        geometry: Geometry,
        l1: L1,
        cache_bytes: u64,
        metadata: Arc<Metadata>,
    ) -> Result<Self, IoError> {
        let mut words = store.read_words(io, l1.offset, l1.entries).await?;
        for word in &mut words {
            if let Ok(Some((host, _))) = geometry.decode_l1(*word) {
                let table = host..host + geometry.cluster();
                let inside = table.end <= store.node().length();
                if !inside || !metadata.add(Structure::ActiveL2, table) {
                    *word = mark::l1(*word);
                }
            }
        }
        let max_tables = tables_in(cache_bytes, geometry);
        let cache = Cache::new(geometry.l2_words(), max_tables, l1.entries).ok_or(IoError::NoMemory)?;
        let l1: Box<[AtomicU64]> = words.into_iter().map(AtomicU64::new).collect();
        let shortcut = Shortcut::new(geometry);
        Ok(Self {
            store,
            geometry,
            shortcut,
            l1: l1.into(),
            cache,
            max_tables: AtomicUsize::new(max_tables),
            metadata,
            loads: RangeLock::default(),
            both: Mutex::new(()),
        })
    }

    /// The image's numbers.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The metadata that nothing may lead into; new tables are to be added.
    pub fn metadata(&self) -> &Arc<Metadata> {
        &self.metadata
    }

    /// Entries of the L1 table in memory, which may be longer than the file's.
    pub fn l1_entries(&self) -> usize {
        self.l1.len()
    }

    /// Makes the L1 table at least so long, while others look things up; new entries have no tables. One caller at a
    /// time. False, and nothing to be noticed, when there is no memory.
    pub fn grow(&self, l1_entries: usize) -> bool {
        self.cache.grow(self.max_tables.load(Ordering::Acquire), l1_entries) && self.l1.grow(l1_entries)
    }

    /// Other bounds of the tables in memory, while others look things up; memory that is in use stays. One caller at a
    /// time.
    pub fn set_cache_size(&self, cache_bytes: u64) {
        let max_tables = tables_in(cache_bytes, self.geometry);
        if self.cache.grow(max_tables, self.l1_entries()) {
            self.max_tables.store(max_tables, Ordering::Release);
        }
    }

    /// All tables in memory count as changed.
    pub fn mark_dirty(&self) {
        let pins = self.cache.resident().into_iter().filter_map(|table| self.cache.pin(table));
        pins.for_each(|pin| pin.mark_dirty());
    }

    /// What is known of a guest offset without waiting; `None` if its table is not in memory. Past the last table
    /// nothing is allocated. Three atomic loads where the table is in memory.
    #[inline]
    pub fn lookup(&self, offset: u64) -> Option<Entry> {
        let index = self.geometry.l1_index(offset);
        if self.geometry.extended {
            return self.lookup_part(index, offset);
        }
        match self.cache.get(index, self.geometry.l2_index(offset)) {
            Some(word) => Some(self.geometry.decode(word)),
            None => self.lookup_l1(index),
        }
    }

    /// Where in the data file the bytes at `offset` are, if all of them are in one cluster that may be written in place,
    /// and its table in memory: what most requests of a disk in use ask for. As many loads as [`Tables::lookup`].
    #[inline]
    pub fn in_place(&self, offset: u64, len: u64) -> Option<u64> {
        let (table, index) = self.shortcut.indices(offset, len)?;
        self.shortcut.host(self.cache.get(table, index)?, offset)
    }

    #[inline(never)]
    fn lookup_part(&self, index: usize, offset: u64) -> Option<Entry> {
        let first = self.geometry.l2_index(offset) * 2;
        let pair = {
            let _both = self.both();
            self.cache.get(index, first).zip(self.cache.get(index, first + 1))
        };
        match pair {
            Some((word, bitmap)) => Some(self.geometry.decode_part(word, bitmap, offset)),
            None => self.lookup_l1(index),
        }
    }

    /// The words of an entry of a table; the second is 0 where there is none.
    ///
    /// # Panics
    /// If a table has no such entry.
    pub fn pair(&self, table: &Pin<'_>, entry: usize) -> (u64, u64) {
        if !self.geometry.extended {
            return (table.word(entry), 0);
        }
        let _both = self.both();
        (table.word(entry * 2), table.word(entry * 2 + 1))
    }

    /// Changes an entry of a table. Between its two words it says of no part that it is in a cluster that is not there.
    ///
    /// # Panics
    /// As [`Tables::pair`].
    pub fn set(&self, table: &Pin<'_>, entry: usize, word: u64, bitmap: u64) {
        if !self.geometry.extended {
            return table.set(entry, word);
        }
        let _both = self.both();
        let leads = matches!(self.geometry.decode(word), Entry::Data { .. });
        let second = if leads { entry * 2 + 1 } else { entry * 2 };
        let values = if leads { [word, bitmap] } else { [bitmap, word] };
        let first = entry * 4 + 1 - second;
        table.set(first, values[0]);
        table.set(second, values[1]);
    }

    fn both(&self) -> MutexGuard<'_, ()> {
        self.both.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lookup_l1(&self, index: usize) -> Option<Entry> {
        match self.table(index) {
            Ok(None) => Some(Entry::Unallocated),
            Ok(Some(_)) => None,
            Err(InvalidEntry) => Some(Entry::Invalid),
        }
    }

    /// Where an L2 table is in the file, and whether it may be written there (its reference count is one); `None` if
    /// there is no such table.
    ///
    /// # Errors
    /// [`InvalidEntry`] if the image is corrupt here.
    pub fn table(&self, index: usize) -> Result<Option<(u64, bool)>, InvalidEntry> {
        self.l1.get(index).map_or(Ok(None), |word| self.geometry.decode_l1(word.load(Ordering::Acquire)))
    }

    /// An L1 entry as it is to stand in the file; 0 past the end.
    pub fn l1(&self, index: usize) -> u64 {
        self.l1.get(index).map_or(0, |word| mark::without_l1(word.load(Ordering::Acquire)))
    }

    /// Changes an L1 entry. A new table is put into the cache first.
    ///
    /// # Panics
    /// If the L1 table has no such entry.
    pub fn set_l1(&self, index: usize, word: u64) {
        self.l1[index].store(word, Ordering::Release);
    }

    /// Brings an L2 table into memory, where it stays as long as the pin lives. `None` if there is no such table, and
    /// if every table in memory has changed or is in use: then the image has to be written back first.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] if the L1 entry is invalid.
    pub async fn load(&self, io: &Handle, index: usize) -> Result<Option<Pin<'_>>, IoError> {
        if let Some(pin) = self.cache.pin(index) {
            return Ok(Some(pin));
        }
        let _turn = self.loads.lock(index as u64..index as u64 + 1).await;
        if let Some(pin) = self.cache.pin(index) {
            return Ok(Some(pin));
        }
        let additions = self.metadata.additions();
        let words = self.read_table(io, index).await?;
        let pin = words.and_then(|words| self.cache.insert(index, &words).ok());
        if let Some(pin) = pin.as_ref().filter(|_| self.metadata.additions() != additions) {
            // Who has made a table of a cluster meanwhile may not have seen this one.
            self.forbid_in(pin, |host| self.metadata.overlaps(host));
        }
        Ok(pin)
    }

    /// An L2 table as it is in the file, checked, for a reader who finds no room in memory. If it is in memory, what it
    /// says there counts.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] if the L1 entry is invalid.
    pub async fn read_table(&self, io: &Handle, index: usize) -> Result<Option<Vec<u64>>, IoError> {
        let Some((host, _)) = self.table(index).map_err(|InvalidEntry| IoError::Io)? else { return Ok(None) };
        let mut words = self.store.read_words(io, host, self.geometry.l2_words()).await?;
        let guests = (index as u64 * self.geometry.l2_span()..).step_by(1 << self.geometry.cluster_bits);
        for (word, guest) in words.iter_mut().step_by(self.geometry.entry_words()).zip(guests) {
            // What breaks the format decodes to nothing as it is, and stays as it is.
            let sound = self.is_sound(*word) && self.is_in_place(*word, guest);
            if self.geometry.decode(*word) != Entry::Invalid && !sound {
                *word = mark::l2(*word);
            }
        }
        Ok(Some(words))
    }

    /// Nobody brings this table into memory as long as the guard lives.
    pub async fn keep_out(&self, index: usize) -> Guard<'_> {
        self.loads.lock(index as u64..index as u64 + 1).await
    }

    /// Gives an L1 entry another table, which is in memory and to be written then. `None`, and nothing changed, if there
    /// is no room, as in [`Tables::load`]. A table that is in memory keeps the words it has.
    ///
    /// # Panics
    /// As [`Tables::set_l1`]; if `words` are not a table's.
    pub fn put_new(&self, index: usize, words: &[u64], l1_word: u64) -> Option<Pin<'_>> {
        let pin = self.cache.insert(index, words).ok()?;
        // It has to be written to where it is now, nowhere else: first the entry, then the mark.
        self.set_l1(index, l1_word);
        pin.mark_dirty();
        Some(pin)
    }

    /// The table, if it is in memory; it stays there as long as the pin lives.
    pub fn pin(&self, index: usize) -> Option<Pin<'_>> {
        self.cache.pin(index)
    }

    /// Tables that have changed since they were taken last, in order.
    pub fn dirty(&self) -> Vec<usize> {
        self.cache.dirty()
    }

    /// A changed table as it is to be written, which counts as unchanged from then on. The pin is to be kept until the
    /// copy is written, and told by [`Pin::mark_dirty`] if that fails: without it the table may be given up, and read
    /// again from where the copy is not yet.
    pub fn take_dirty(&self, index: usize) -> Option<(Pin<'_>, Vec<u64>)> {
        let (pin, mut words) = self.cache.take_dirty(index)?;
        let firsts = words.iter_mut().step_by(self.geometry.entry_words());
        firsts.for_each(|word| *word = mark::without_l2(*word));
        Some((pin, words))
    }
}

#[cfg(test)]
mod tests;
