//! Bringing the file up to date: blocks first, then the table entries that name new ones, or a new table as a whole and
//! then the header that names it.
//!
//! Each step is stable before the next where the next leads to it. What is copied for one pass is consistent: an entry
//! never without its block. What cannot be written counts as changed again.

use super::Refcounts;
use super::blocks::Piece;
use super::state::{State, TableAt};
use crate::error::IoError;
use crate::io::{Buf, byte_count};
use crate::reactor::Handle;
use std::collections::BTreeSet;
use std::ops::Range;

/// Table entries in the smallest piece that is written.
const ENTRIES_PER_PIECE: usize = 64;

/// `refcount_table_offset` and `refcount_table_clusters` of the header, one after the other.
const HEADER_FIELDS: u64 = 48;

/// What one pass writes.
struct Batch {
    /// Offsets of the blocks, and what is new of them.
    blocks: Vec<(u64, Piece)>,
    /// Entries that the file will have.
    changed: BTreeSet<usize>,
    /// Pieces of the table, by the number of their first entry.
    entries: Vec<(usize, Vec<u64>)>,
    /// Where these belong.
    table: TableAt,
    /// The header does not name that place.
    moved: bool,
}

impl Refcounts {
    /// Writes all that has changed up to now to the file; flushes only between what has to be stable in order. The
    /// caller's flush makes it stable. Whoever copies tables that lead to clusters copies them before.
    ///
    /// # Errors
    /// The storage's; what was to be written is still to be.
    pub async fn write_back(&self, io: &Handle) -> Result<(), IoError> {
        let _turn = self.writing.lock(0..1).await;
        loop {
            let batch = self.state().begin_writing();
            let result = self.write(io, &batch).await;
            tracing::trace!(ok = result.is_ok(), "write-back: counts are written");
            let old = self.state().end_writing(batch, result.is_ok());
            result?;
            if old.is_empty() {
                return Ok(());
            }
            for TableAt { offset, clusters } in old {
                self.free_table(io, offset, clusters).await;
            }
        }
    }

    /// Frees the place of a table that nothing leads to any more.
    async fn free_table(&self, io: &Handle, offset: u64, clusters: u64) {
        let cluster = self.state().geometry.cluster();
        let bytes = offset..offset + clusters * cluster;
        self.unprotect(bytes.clone());
        self.state().metadata.remove(bytes);
        if let Err(error) = self.lower(io, offset, clusters).await {
            tracing::warn!(%error, offset, clusters, "the old refcount table of an image could not be freed: it leaks");
        }
    }

    async fn write(&self, io: &Handle, batch: &Batch) -> Result<(), IoError> {
        for (offset, piece) in &batch.blocks {
            self.store.write(io, offset + piece.at as u64, buf(&piece.bytes)).await?;
        }
        if batch.entries.is_empty() {
            return Ok(());
        }
        tracing::trace!("write-back: blocks' flush");
        self.store.flush(io).await?;
        tracing::trace!("write-back: refcount table");
        for (first, words) in &batch.entries {
            self.store.write_words(io, batch.table.offset + *first as u64 * 8, words).await?;
        }
        if batch.moved { self.name_table(io, batch.table).await } else { Ok(()) }
    }

    /// Makes a table stable, lets the header name it, and makes that stable.
    async fn name_table(&self, io: &Handle, table: TableAt) -> Result<(), IoError> {
        tracing::trace!("write-back: new refcount table");
        self.store.flush(io).await?;
        let clusters = u32::try_from(table.clusters).map_err(|_| IoError::Io)?;
        let fields = [&table.offset.to_be_bytes()[..], &clusters.to_be_bytes()[..]].concat();
        self.store.write(io, HEADER_FIELDS, buf(&fields)).await?;
        self.store.flush(io).await
    }
}

fn buf(bytes: &[u8]) -> Buf {
    let mut buf = Buf::new(bytes.len());
    buf.as_mut_slice().copy_from_slice(bytes);
    buf
}

impl State {
    fn begin_writing(&mut self) -> Batch {
        let moved = self.tables.len() > 1;
        let table = self.tables.last().copied().unwrap_or(TableAt { offset: 0, clusters: 0 });
        let changed = std::mem::take(&mut self.changed);
        let words = |piece: Range<usize>| (piece.start, self.table.get(piece).unwrap_or_default().to_vec());
        let mut entries: Vec<_> = match moved {
            true => vec![words(0..self.table.len())],
            false => pieces(&changed, self.table.len()).into_iter().map(words).collect(),
        };
        // The entries there can be may be fewer than a table has room for.
        if moved && let Some((_, words)) = entries.first_mut() {
            words.resize(byte_count(table.clusters * self.geometry.cluster() / 8), 0);
        }
        let blocks = self.blocks.begin_writing();
        let blocks = blocks.into_iter().map(|piece| (self.entry(piece.region), piece)).collect();
        Batch { blocks, changed, entries, table, moved }
    }

    /// Returns places of tables that are free now.
    fn end_writing(&mut self, batch: Batch, done: bool) -> Vec<TableAt> {
        let pieces: Vec<Piece> = batch.blocks.into_iter().map(|(_, piece)| piece).collect();
        self.blocks.end_writing(&pieces, done);
        if !done {
            self.changed.extend(batch.changed);
            return Vec::new();
        }
        let named = self.tables.iter().position(|table| *table == batch.table).unwrap_or(0);
        self.tables.drain(..named).collect()
    }
}

/// The pieces of a table of `len` entries that these are in.
fn pieces(changed: &BTreeSet<usize>, len: usize) -> Vec<Range<usize>> {
    let numbers: BTreeSet<usize> = changed.iter().map(|entry| entry / ENTRIES_PER_PIECE).collect();
    let range = |number: usize| number * ENTRIES_PER_PIECE..((number + 1) * ENTRIES_PER_PIECE).min(len);
    numbers.into_iter().map(range).collect()
}
