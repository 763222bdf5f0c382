//! Everything that refers to clusters, from the header down.

use super::{Check, Directory};
use crate::error::IoError;
use crate::io::byte_count;

/// Bits 9 to 55 of an entry: an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// QEMU's limit for an L1 table, in bytes.
const MOST_L1_BYTES: u64 = 32 << 20;

/// Of a snapshot table's entry, and of a bitmap directory's, before what varies in length.
const SNAPSHOT_HEADER: u64 = 40;
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
            if geometry.in_cluster(table) != 0 {
                self.report.corruption(|| {
                    format!("ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted")
                });
            }
            if !self.may_walk_table() {
                return Ok(());
            }
            let words = self.read_words(table, geometry.l2_entries() as u64).await?;
            let mut next = 0;
            for (index, word) in words.into_iter().enumerate().filter(|(_, word)| *word != 0) {
                match word & COMPRESSED != 0 {
                    true => self.refer_compressed(index, word, active),
                    false => self.refer_data(word, active.then_some(&mut next)),
                }
            }
        }
        Ok(())
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
        let zero = geometry.version >= 3 && word & 1 != 0;
        let known = COPIED | OFFSET | u64::from(geometry.version >= 3);
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

    /// Counts the snapshot table and what the snapshots' L1 tables lead to.
    pub(super) async fn walk_snapshots(&mut self) -> Result<(), IoError> {
        let mut at = self.parts.snapshots_offset;
        for _ in 0..self.parts.snapshots {
            let Some(header) = self.read_inside(at, SNAPSHOT_HEADER).await? else {
                self.report.corruption(|| format!("ERROR snapshot table entry at {at:#x} is outside image"));
                return Ok(());
            };
            let (id_len, name_len) = (number(&header, 12, 2), number(&header, 14, 2));
            let names_at = at + SNAPSHOT_HEADER + number(&header, 36, 4);
            let Some(names) = self.read_inside(names_at, id_len + name_len).await? else {
                self.report.corruption(|| format!("ERROR snapshot table entry at {at:#x} is outside image"));
                return Ok(());
            };
            let (id, name) = names.split_at(byte_count(id_len).min(names.len()));
            let who = format!("{} ({})", String::from_utf8_lossy(id), String::from_utf8_lossy(name));
            self.walk_snapshot(&who, number(&header, 0, 8), number(&header, 8, 4)).await?;
            at = (names_at + id_len + name_len).next_multiple_of(8);
        }
        let len = at - self.parts.snapshots_offset;
        self.refer(self.parts.snapshots_offset, len);
        Ok(())
    }

    async fn walk_snapshot(&mut self, who: &str, offset: u64, entries: u64) -> Result<(), IoError> {
        let wrong = "; snapshot table entry corrupted";
        if self.parts.geometry.in_cluster(offset) != 0 {
            self.report.corruption(|| {
                format!("ERROR snapshot {who} l1_offset={offset:#x}: L1 table is not cluster aligned{wrong}")
            });
            return Ok(());
        }
        if entries * 8 > MOST_L1_BYTES {
            self.report
                .corruption(|| format!("ERROR snapshot {who} l1_size={entries:#x}: L1 table is too large{wrong}"));
            return Ok(());
        }
        self.walk_l1(offset, u32::try_from(entries).unwrap_or(0), false).await
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
