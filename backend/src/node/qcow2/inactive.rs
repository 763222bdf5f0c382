//! L2 tables that only snapshots have, as metadata that nothing leads into: QEMU's `overlap-check.inactive-l2`, for who
//! asks for it. To know them takes reading the L1 tables of all snapshots, once.
//!
//! A table that the disk shares with a snapshot is an active one until the disk has its own.

use super::freed::Freed;
use super::image::Image;
use super::l2::metadata::Structure;
use super::open::OpenError;
use crate::io::byte_count;
use crate::reactor::Handle;
use std::ops::Range;

/// Bytes of L1 tables that are read at most: those of the largest one that there can be. A file may be all tables.
const MOST_BYTES: u64 = 32 << 20;
/// Bytes that are read at once.
const PIECE: u64 = 64 << 10;

impl Image {
    /// Guards the L2 tables of snapshots from now on. Nobody may be using the image yet.
    ///
    /// # Errors
    /// The storage's; [`OpenError::InactiveTables`] where there are too many of them.
    pub async fn guard_inactive_l2(&self, io: &Handle) -> Result<(), OpenError> {
        let ranges = self.inactive_l1();
        if ranges.iter().map(|range| range.end - range.start).sum::<u64>() > MOST_BYTES {
            return Err(OpenError::InactiveTables);
        }
        self.tables.metadata().guard_inactive();
        for Range { start, end } in ranges {
            let mut at = start;
            while at < end {
                let len = PIECE.min(end - at);
                let words = self.store.read_words(io, at, byte_count(len / 8)).await;
                let words = words.map_err(|error| OpenError::Read("L1 tables of snapshots", error))?;
                words.into_iter().for_each(|word| self.guard_inactive_table(word));
                at += len;
            }
        }
        self.tables.forbid_metadata();
        Ok(())
    }

    /// Where the L1 tables of snapshots are, no byte twice.
    fn inactive_l1(&self) -> Vec<Range<u64>> {
        let length = self.file().length();
        let table = self.snapshots();
        let ranges = table.snapshots.iter().filter_map(|snapshot| snapshot.l1_range(self.geometry, length));
        let mut ranges: Vec<Range<u64>> = ranges.collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        ranges
    }

    /// What a snapshot's L1 entry leads to, unless it is something else's, or nothing.
    fn guard_inactive_table(&self, word: u64) {
        let Ok(Some((host, _))) = self.geometry.decode_l1(word) else { return };
        let bytes = host..host + self.geometry.cluster();
        if bytes.end <= self.file().length() && self.tables.metadata().add(Structure::InactiveL2, bytes.clone()) {
            self.refcounts.protect(bytes);
        }
    }

    /// The disk does without this L2 table from now on; a snapshot may not.
    pub(super) async fn let_go_of_table(&self, io: &Handle, host: u64) {
        let (metadata, bytes) = (self.tables.metadata(), host..host + self.geometry.cluster());
        metadata.remove(bytes.clone());
        let guards = metadata.guards_inactive();
        if guards && self.refcounts.get(io, host).await.is_ok_and(|count| count > 1) {
            metadata.add(Structure::InactiveL2, bytes);
        } else {
            self.refcounts.unprotect(bytes);
        }
        self.freed.add(Freed { host, clusters: 1, punch: false });
    }

    /// As [`Image::guard_inactive_l2`], of an image that is opened.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn guarded(self, io: &Handle) -> Result<Self, OpenError> {
        self.guard_inactive_l2(io).await?;
        Ok(self)
    }
}
