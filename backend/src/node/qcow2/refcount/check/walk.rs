//! Everything that refers to clusters, from the header down.

use super::{Check, CheckError, Directory};
use crate::error::IoError;
use crate::node::qcow2::entry::ALL_PARTS;
use crate::node::qcow2::header::MAX_L1_BYTES;
use crate::node::qcow2::snapshot::{Snapshot, SnapshotTable};

/// Bits 9 to 55 of an entry: an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// Of an entry of a bitmap directory, before what varies in length.
const BITMAP_HEADER: u64 = 24;

impl Check<'_> {
    /// Counts what an L1 table leads to; the active one also tells how scattered the guest's clusters are.
    pub(super) async fn walk_l1(&mut self, offset: u64, entries: u32, active: bool) -> Result<(), IoError> {
        let (geometry, entries) = (self.parts.geometry, u64::from(entries));
        self.refer(offset, entries * 8);
        for entry in self.read_words(offset, entries).await?.into_iter().filter(|entry| *entry != 0) {
            if entry & !(COPIED | OFFSET) != 0 {
                self.report.corruption(|| format!("ERROR found L1 entry with reserved bits set: {entry:x}"));
            }
            let table = entry & OFFSET;
            self.refer(table, geometry.cluster());
            self.note_table(table, active);
            if geometry.in_cluster(table) != 0 {
                self.report.corruption(|| {
                    format!("ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted")
                });
            }
            if !self.may_walk_table() {
                return Ok(());
            }
            let words = self.read_words(table, geometry.l2_words() as u64).await?;
            let mut next = 0;
            if geometry.extended {
                words.as_chunks().0.iter().enumerate().for_each(|(index, pair)| self.check_parts(index, *pair));
            }
            for (index, word) in geometry.entries(&words).enumerate().filter(|(_, word)| *word != 0) {
                match word & COMPRESSED != 0 {
                    true => self.refer_compressed(index, word, active),
                    false => self.refer_data(word, active.then_some(&mut next)),
                }
            }
        }
        Ok(())
    }

    /// Looks whether the second word of an entry says of parts what can be.
    fn check_parts(&mut self, index: usize, [word, bitmap]: [u64; 2]) {
        let wrong = match word {
            _ if word & COMPRESSED != 0 && bitmap != 0 => {
                let text = "with non-zero subcluster allocation bitmap";
                format!("ERROR compressed cluster {index} {text}, entry=0x{word:x}")
            }
            _ if word & COMPRESSED != 0 => return,
            _ if word & OFFSET == 0 && !self.parts.geometry.external_data && bitmap & ALL_PARTS != 0 => {
                "ERROR: Unallocated cluster has non-zero subcluster allocation map".to_owned()
            }
            _ if bitmap >> 32 & bitmap & ALL_PARTS != 0 => {
                let offset = word & OFFSET;
                format!("ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation bitmap")
            }
            _ => return,
        };
        self.report.corruption(|| wrong);
    }

    fn refer_compressed(&mut self, index: usize, word: u64, active: bool) {
        let geometry = self.parts.geometry;
        let offset_bits = 62 - (geometry.cluster_bits - 8);
        let host = word & ((1 << offset_bits) - 1);
        if word & COPIED != 0 {
            let text = "copied flag must never be set for compressed clusters";
            self.report.corruption(|| format!("ERROR: coffset={host:#x}: {text}"));
        }
        if geometry.external_data {
            let text = format!("ERROR compressed cluster {index} with data file, entry={:#x}", word & !COPIED);
            return self.report.corruption(|| text);
        }
        let sectors = (word & (COMPRESSED - 1)) >> offset_bits;
        self.refer(host, (sectors + 1) * 512 - (host & 511));
        if active {
            self.report.compressed_clusters += 1;
            self.report.allocated_clusters += 1;
            // They are packed, so no two of them follow each other as the guest's do.
            self.report.fragmented_clusters += 1;
        }
    }

    fn refer_data(&mut self, word: u64, next: Option<&mut u64>) {
        let geometry = self.parts.geometry;
        // Bit 0 tells of zeroes from version 3 on.
        let has_zero = geometry.version >= 3 && !geometry.extended;
        let zero = has_zero && word & 1 != 0;
        let known = COPIED | OFFSET | u64::from(has_zero);
        if word & !known != 0 {
            self.report.corruption(|| format!("ERROR found l2 entry with reserved bits set: {word:x}"));
        }
        let host = word & OFFSET;
        // Offset 0 is that of a cluster only in a data file.
        if host == 0 && (zero || !geometry.external_data || word & COPIED == 0) {
            return;
        }
        if geometry.in_cluster(host) != 0 {
            let what = if zero { "Preallocated" } else { "Data" };
            self.report.corruption(|| {
                format!("ERROR offset={host:x}: {what} cluster is not properly aligned; L2 entry corrupted.")
            });
        }
        if let Some(next) = next {
            self.report.allocated_clusters += 1;
            self.report.fragmented_clusters += u64::from(*next != 0 && *next != host);
            *next = host + geometry.cluster();
        }
        if !geometry.external_data {
            self.refer(host, geometry.cluster());
        }
    }

    /// Reads the snapshot table, which has to be what version 3 asks for.
    pub(super) async fn read_snapshots(&mut self) -> Result<SnapshotTable, CheckError> {
        let at = (self.parts.snapshots_offset, self.parts.snapshots);
        let table = SnapshotTable::read(self.io, &self.store, at.0, at.1).await?;
        let incomplete =
            |(_, snapshot): &(usize, &Snapshot)| self.parts.geometry.version >= 3 && !snapshot.is_complete();
        for (index, _) in table.snapshots.iter().enumerate().filter(incomplete) {
            self.report.corruption(|| format!("ERROR snapshot table entry {index} is incomplete"));
        }
        Ok(table)
    }

    /// Counts the snapshot table and what the snapshots' L1 tables lead to.
    pub(super) async fn walk_snapshots(&mut self, table: &SnapshotTable) -> Result<(), IoError> {
        let count = table.snapshots.len();
        if count > 0 && self.parts.geometry.external_data {
            self.report.corruption(|| format!("ERROR {count} snapshots in image with data file"));
        }
        for snapshot in &table.snapshots {
            self.walk_snapshot(snapshot).await?;
        }
        self.refer(table.offset, table.len);
        Ok(())
    }

    async fn walk_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), IoError> {
        let Snapshot { id, name, l1_offset, l1_entries, .. } = snapshot;
        let wrong = "; snapshot table entry corrupted";
        if self.parts.geometry.in_cluster(*l1_offset) != 0 {
            self.report.corruption(|| {
                format!("ERROR snapshot {id} ({name}) l1_offset={l1_offset:#x}: L1 table is not cluster aligned{wrong}")
            });
            return Ok(());
        }
        if u64::from(*l1_entries) * 8 > MAX_L1_BYTES {
            self.report.corruption(|| {
                format!("ERROR snapshot {id} ({name}) l1_size={l1_entries:#x}: L1 table is too large{wrong}")
            });
            return Ok(());
        }
        self.walk_l1(*l1_offset, *l1_entries, false).await
    }

    /// Counts the bitmap directory, the bitmaps' tables and their data.
    pub(super) async fn walk_bitmaps(&mut self) -> Result<(), IoError> {
        let Some(Directory { count, offset, size }) = self.parts.bitmaps else { return Ok(()) };
        self.refer(offset, size);
        let mut at = offset;
        for _ in 0..count {
            let header = self.read_inside(at, BITMAP_HEADER).await?;
            let Some(header) = header.filter(|_| at - offset < size) else {
                self.report.corruption(|| format!("ERROR bitmap directory entry at {at:#x} is outside the directory"));
                return Ok(());
            };
            self.walk_bitmap(number(&header, 0, 8), number(&header, 8, 4)).await?;
            at = (at + BITMAP_HEADER + number(&header, 18, 2) + number(&header, 20, 4)).next_multiple_of(8);
        }
        Ok(())
    }

    async fn walk_bitmap(&mut self, offset: u64, entries: u64) -> Result<(), IoError> {
        let cluster = self.parts.geometry.cluster();
        self.refer(offset, entries * 8);
        let length = self.store.node().length();
        if offset.checked_add(entries * 8).is_none_or(|end| end > length) {
            self.report.corruption(|| format!("ERROR bitmap table at {offset:#x} is outside image"));
            return Ok(());
        }
        // A cluster at a time: a table may have as many entries as the file has room for.
        for part in 0..(entries * 8).div_ceil(cluster) {
            let count = (entries - part * cluster / 8).min(cluster / 8);
            for entry in self.read_words(offset + part * cluster, count).await? {
                let host = entry & OFFSET;
                let known = if host == 0 { 1 } else { OFFSET };
                if entry & !known != 0 || self.parts.geometry.in_cluster(host) != 0 {
                    self.report.corruption(|| format!("ERROR bitmap table entry {entry:#x} corrupted"));
                } else if host != 0 {
                    self.refer(host, cluster);
                }
            }
        }
        Ok(())
    }

    /// Bytes of the file, `None` where part of them is past its end.
    async fn read_inside(&self, offset: u64, len: u64) -> Result<Option<Vec<u8>>, IoError> {
        let length = self.store.node().length();
        if offset.checked_add(len).is_none_or(|end| end > length) {
            return Ok(None);
        }
        if len == 0 {
            return Ok(Some(Vec::new()));
        }
        self.store.read(self.io, offset, len).await.map(|buf| Some(buf.as_slice().to_vec()))
    }
}

/// A big-endian number; 0 where there is none.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes.get(at..at + len).unwrap_or_default().iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
