//! Where the tables that a header names may be: aligned, not too large, inside the file, apart from each other.

use super::error::{HeaderError, TableFault};
use super::{Header, MAX_L1_BYTES, MAX_REFTABLE_BYTES, MAX_SNAPSHOTS};

/// No entry of a table can say an offset that is not less.
const MAX_OFFSET: u64 = 1 << 56;
/// Bytes of the shortest entry of a snapshot table.
const SNAPSHOT_ENTRY: u64 = 40;

/// A piece of the file that the header names.
struct Table {
    name: &'static str,
    offset: u64,
    len: u64,
}

impl Table {
    fn fault<T>(&self, fault: TableFault) -> Result<T, HeaderError> {
        Err(HeaderError::Table(self.name, fault))
    }

    /// The file's offset after it.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    fn check_offset(&self, header: &Header) -> Result<(), HeaderError> {
        let aligned = self.offset.is_multiple_of(header.geometry().cluster());
        if !aligned || self.offset >= MAX_OFFSET || self.end() > MAX_OFFSET {
            return self.fault(TableFault::Offset);
        }
        Ok(())
    }
}

fn refcounts(header: &Header) -> Table {
    let len = u64::from(header.reftable_clusters) << header.cluster_bits;
    Table { name: "Reference count table", offset: header.reftable_offset, len }
}

fn snapshots(header: &Header) -> Table {
    let len = u64::from(header.snapshots) * SNAPSHOT_ENTRY;
    Table { name: "Snapshot table", offset: header.snapshots_offset, len }
}

fn l1(header: &Header) -> Table {
    Table { name: "Active L1 table", offset: header.l1_offset, len: u64::from(header.l1_entries) * 8 }
}

fn bitmap_directory(header: &Header) -> Option<Table> {
    let bitmaps = header.bitmaps?;
    Some(Table { name: "Bitmap directory", offset: bitmaps.offset, len: bitmaps.size })
}

/// Sizes and offsets of each table by itself, in the order in which QEMU looks.
pub(super) fn check_limits(header: &Header) -> Result<(), HeaderError> {
    if header.reftable_clusters == 0 {
        return Err(HeaderError::NoRefcounts);
    }
    let limits = [
        (refcounts(header), MAX_REFTABLE_BYTES),
        (snapshots(header), u64::from(MAX_SNAPSHOTS) * SNAPSHOT_ENTRY),
        (l1(header), MAX_L1_BYTES),
    ];
    for (table, limit) in limits {
        if table.len > limit {
            return table.fault(TableFault::TooLarge);
        }
        table.check_offset(header)?;
    }
    let needed = header.geometry().l1_entries(header.size);
    if needed > i32::MAX as u64 || header.size > i64::MAX as u64 {
        return Err(HeaderError::Size);
    }
    if needed > u64::from(header.l1_entries) {
        return Err(HeaderError::L1Size);
    }
    Ok(())
}

/// That every table that is there is in the file, and shares no byte with another or with the header.
pub(super) fn check_places(header: &Header, file_length: u64) -> Result<(), HeaderError> {
    let first = Table { name: "the header", offset: 0, len: header.geometry().cluster() };
    let mut places = vec![first];
    let named = [Some(refcounts(header)), Some(snapshots(header)), Some(l1(header)), bitmap_directory(header)];
    for table in named.into_iter().flatten().filter(|table| table.len > 0) {
        table.check_offset(header)?;
        if table.end() > file_length {
            return table.fault(TableFault::PastEnd { offset: table.offset, file_length });
        }
        if let Some(other) = places.iter().find(|other| table.offset < other.end() && other.offset < table.end()) {
            return Err(HeaderError::Overlap(table.name, other.name));
        }
        places.push(table);
    }
    Ok(())
}
