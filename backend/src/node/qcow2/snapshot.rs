//! The table of an image's internal snapshots.
//!
//! It is read and kept; what changes is written elsewhere, as a whole. An image is untrusted: no more memory is taken
//! than the file has bytes for, and what an entry says of an L1 table is for [`Snapshot::l1_range`] to check. Sources:
//! the qcow2 specification, "Snapshots"; limits and words are QEMU's.

pub mod apply;
mod encode;
mod flags;
mod place;
pub mod remove;
pub mod share;
mod table;
pub mod take;
mod tree;

pub use encode::Description;

use super::entry::Geometry;
use super::header::{Fields, Header, MAX_L1_BYTES};
use super::store::Store;
use crate::error::IoError;
use crate::io::byte_count;
use crate::reactor::Handle;
use std::ops::Range;

/// Bytes of an entry before its extra data.
const FIXED: u64 = 40;
/// Bytes of extra data of an entry at most.
const MAX_EXTRA: u32 = 1024;
/// Extra data that version 3 asks for: sizes of the state and of the disk.
const EXTRA_V3: u32 = 16;
/// Bytes of the largest table.
const MAX_TABLE: u64 = 64 << 20;
/// A disk's smallest unit in bytes.
const SECTOR: u64 = 512;
/// Bytes that are read at once.
const WINDOW: u64 = 64 << 10;

/// An internal snapshot as its entry describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where its L1 table is said to be.
    pub l1_offset: u64,
    /// Entries that one is said to have.
    pub l1_entries: u32,
    /// Its unique id, a number as a rule.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// For how long the guest had run.
    pub vm_clock_nsec: u64,
    /// Bytes of the disk then, if it says that.
    pub disk_bytes: Option<u64>,
    /// Bytes of the guest's state.
    pub vm_state_bytes: u64,
    /// Instructions the guest had done, if somebody counted.
    pub icount: Option<u64>,
    /// Bytes of extra data.
    pub extra_bytes: u32,
    /// The entry as it stands in the table, not padded: whatever else it says is kept.
    entry: Vec<u8>,
}

/// All snapshots of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTable {
    /// Where the table is.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// The snapshots in their order.
    pub snapshots: Vec<Snapshot>,
}

/// Why a table cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// More than anybody knows to mean something.
    #[error("Too much extra metadata in snapshot table entry {0}")]
    ExtraData(u32),
    /// More bytes than a table may have.
    #[error("Snapshot table is too big")]
    TooBig,
    /// The storage's.
    #[error("Failed to read snapshot table: {0}")]
    Io(#[from] IoError),
}

/// Why a snapshot cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// There is none of this id or name.
    #[error("Can't find snapshot '{0}'")]
    NotFound(String),
    /// Its L1 table cannot be where it is said to be.
    #[error("Snapshot '{0}' is corrupt: its L1 table is not in the file, or too short")]
    Table(String),
}

impl Snapshot {
    /// Where its L1 table is in a file of `file_length` bytes; `None` if it cannot be there, or is empty.
    pub fn l1_range(&self, geometry: Geometry, file_length: u64) -> Option<Range<u64>> {
        let len = u64::from(self.l1_entries) * 8;
        let end = self.l1_offset.checked_add(len).filter(|end| *end <= file_length)?;
        let fits = geometry.in_cluster(self.l1_offset) == 0 && (1..=MAX_L1_BYTES).contains(&len);
        fits.then_some(self.l1_offset..end)
    }

    /// The header of an image that is what the disk of `header` was at this snapshot, to be read only: another L1 table,
    /// another size, and no bitmaps.
    ///
    /// # Errors
    /// [`SnapshotError::Table`] if that table cannot be in a file of `file_length` bytes, or is too short for the disk.
    pub fn header(&self, header: &Header, file_length: u64) -> Result<Header, SnapshotError> {
        let geometry = header.geometry();
        let size = self.disk_bytes.unwrap_or(header.size);
        let needed = size.div_ceil(geometry.l2_span());
        let fits = size.is_multiple_of(SECTOR) && needed <= u64::from(self.l1_entries);
        // Of a disk without bytes there is no table to read.
        if !fits || (needed > 0 && self.l1_range(geometry, file_length).is_none()) {
            return Err(SnapshotError::Table(self.name.clone()));
        }
        let l1_entries = u32::try_from(needed).map_err(|_| SnapshotError::Table(self.name.clone()))?;
        let (bitmaps, stale_bitmaps) = (None, false);
        Ok(Header { l1_offset: self.l1_offset, l1_entries, size, bitmaps, stale_bitmaps, ..header.clone() })
    }

    /// Whether it has the extra data that version 3 asks for.
    pub fn is_complete(&self) -> bool {
        self.extra_bytes >= EXTRA_V3
    }
}

impl SnapshotTable {
    /// The snapshot of this id, or else of this name.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`].
    pub fn find(&self, wanted: &str) -> Result<&Snapshot, SnapshotError> {
        let by_id = self.snapshots.iter().find(|snapshot| snapshot.id == wanted);
        let found = by_id.or_else(|| self.snapshots.iter().find(|snapshot| snapshot.name == wanted));
        found.ok_or_else(|| SnapshotError::NotFound(wanted.to_owned()))
    }

    /// Reads an image's table. What is past the end of the file is zero.
    ///
    /// # Errors
    /// See [`TableError`].
    pub async fn read(io: &Handle, store: &Store, offset: u64, count: u32) -> Result<Self, TableError> {
        // No sum below leaves the range of numbers.
        offset.checked_add(2 * MAX_TABLE).ok_or(TableError::TooBig)?;
        let mut window = Window { io, store, start: 0, bytes: Vec::new() };
        let (mut at, mut snapshots) = (offset, Vec::new());
        for index in 0..count {
            let (snapshot, end) = window.entry(index, at).await?;
            snapshots.push(snapshot);
            if end - offset > MAX_TABLE {
                return Err(TableError::TooBig);
            }
            // The last one is not padded.
            at = if index + 1 == count { end } else { end.next_multiple_of(8) };
        }
        Ok(Self { offset, len: at - offset, snapshots })
    }

    /// The table that a header names.
    ///
    /// # Errors
    /// As [`SnapshotTable::read`].
    pub async fn of(io: &Handle, store: &Store, header: &Header) -> Result<Self, TableError> {
        Self::read(io, store, header.snapshots_offset, header.snapshots).await
    }
}

/// A piece of the table in memory.
struct Window<'a> {
    io: &'a Handle,
    store: &'a Store,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The entry at an offset of the file, and where it ends.
    async fn entry(&mut self, index: u32, at: u64) -> Result<(Snapshot, u64), TableError> {
        let fixed = self.get(at, FIXED).await?.to_vec();
        let fields = Fields(&fixed);
        let extra_bytes = fields.u32(36);
        if extra_bytes > MAX_EXTRA {
            return Err(TableError::ExtraData(index));
        }
        let extra = self.get(at + FIXED, extra_bytes.into()).await?.to_vec();
        let known = |at: usize| (extra.len() >= at + 8).then(|| Fields(&extra).u64(at));
        let names_at = at + FIXED + u64::from(extra_bytes);
        let (id_len, name_len) = (u64::from(fields.u16(12)), u64::from(fields.u16(14)));
        let names = self.get(names_at, id_len + name_len).await?;
        let (id, name) = names.split_at(byte_count(id_len).min(names.len()));
        let entry = [&fixed, &extra, names].concat();
        let snapshot = Snapshot {
            l1_offset: fields.u64(0),
            l1_entries: fields.u32(8),
            id: text(id),
            name: text(name),
            date_sec: fields.u32(16),
            date_nsec: fields.u32(20),
            vm_clock_nsec: fields.u64(24),
            disk_bytes: known(8),
            vm_state_bytes: known(0).unwrap_or(fields.u32(32).into()),
            icount: known(16).filter(|count| *count != u64::MAX),
            extra_bytes,
            entry,
        };
        Ok((snapshot, names_at + id_len + name_len))
    }

    /// Bytes of the file.
    async fn get(&mut self, at: u64, len: u64) -> Result<&[u8], IoError> {
        let inside = at >= self.start && at + len <= self.start + self.bytes.len() as u64;
        if !inside {
            self.bytes = self.store.read(self.io, at, len.max(WINDOW)).await?.as_slice().to_vec();
            self.start = at;
        }
        let from = byte_count(at - self.start);
        Ok(self.bytes.get(from..from + byte_count(len)).unwrap_or_default())
    }
}

/// Text as QEMU reads it: up to the first zero.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}
