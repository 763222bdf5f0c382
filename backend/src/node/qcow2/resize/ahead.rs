//! Space for what comes after the end of a disk, taken before the header says that the disk has it: where there is no room
//! the disk stays as long as it was, and what was taken is given back.

use super::{ResizeError, step};
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::points::Points;
use crate::node::qcow2::create::Preallocation;
use crate::node::qcow2::entry::{ALL_PARTS, Entry};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::Pin;
use crate::node::qcow2::refcount::Run;
use crate::node::{Kind, Request};
use crate::reactor::Handle;
use std::ops::Range;

/// Bytes of zeroes that are written at a time.
const PIECE: u64 = 1 << 20;

impl Image {
    /// Takes space for `new` bytes of the disk, which read as zeroes already; stable when this returns.
    pub(super) async fn take_ahead(
        &self,
        io: &Handle,
        new: Range<u64>,
        space: Preallocation,
        points: &Points,
    ) -> Result<(), ResizeError> {
        let taken = self.place_all(io, &new, space, points).await;
        let Err(error) = taken else { return Ok(()) };
        if let Err(error) = self.give_up(io, new, points).await {
            tracing::warn!(file = self.file().name(), %error, "clusters past the end of the image keep their space");
        }
        let what = match space {
            Preallocation::Off | Preallocation::Metadata => "Allocating clusters failed",
            Preallocation::Falloc => "Failed to resize underlying file: Could not preallocate new data",
            Preallocation::Full => "Failed to resize underlying file: Could not write zeros for preallocation",
        };
        Err(step(what)(error))
    }

    /// Gives all clusters that have some of these bytes their places.
    async fn place_all(
        &self,
        io: &Handle,
        new: &Range<u64>,
        space: Preallocation,
        points: &Points,
    ) -> Result<(), IoError> {
        let geometry = self.geometry;
        let whole = geometry.clusters(new.start) * geometry.cluster();
        self.place_clusters(io, whole..geometry.clusters(new.end) * geometry.cluster(), space, points).await?;
        self.flush(io, points).await?;
        // The first may be the disk's already, and stays as it is if there is no room for the others.
        let first = geometry.cluster_start(new.start)..whole;
        let shows = self.backing.is_some();
        // A cluster of parts may have its place and no space for those.
        let in_parts = geometry.extended && matches!(space, Preallocation::Falloc | Preallocation::Full);
        if (shows || in_parts) && !first.is_empty() {
            let len = whole.min(new.end) - new.start;
            let memory = Memory::from(Buf::new(byte_count(len)));
            let write = Request { kind: Kind::Write, fua: false, offset: new.start, len, memory };
            self.write(io, write, points).await.1?;
        }
        self.place_clusters(io, first, space, points).await?;
        self.flush(io, points).await
    }

    /// Gives whole clusters that have none their places.
    async fn place_clusters(
        &self,
        io: &Handle,
        clusters: Range<u64>,
        space: Preallocation,
        points: &Points,
    ) -> Result<(), IoError> {
        let span = self.geometry.l2_span();
        let mut at = clusters.start;
        while at < clusters.end {
            let table_end = (at / span + 1).saturating_mul(span).min(clusters.end);
            at = self.place_run(io, at..table_end, space, points).await?;
        }
        Ok(())
    }

    /// Does so for the first clusters of a range of one table; returns where the others begin.
    async fn place_run(
        &self,
        io: &Handle,
        clusters: Range<u64>,
        space: Preallocation,
        points: &Points,
    ) -> Result<u64, IoError> {
        let geometry = self.geometry;
        let _clusters = self.clusters.lock(clusters.clone()).await;
        let table = self.table_for_change(io, geometry.l1_index(clusters.start), points).await?;
        let wanted = self.unplaced(&table, clusters.clone())?;
        if wanted == 0 {
            return Ok(clusters.start + geometry.cluster());
        }
        let run = match geometry.external_data {
            true => Run { host: clusters.start, clusters: wanted, fresh: false },
            false => self.take_clusters(io, wanted).await?,
        };
        if let Err(error) = self.make_space(io, run, space).await {
            if !geometry.external_data {
                self.put_clusters_back(run);
            }
            return Err(error);
        }
        for number in (0..run.clusters).map(|number| number * geometry.cluster()) {
            let index = geometry.l2_index(clusters.start + number);
            let (before, parts) = self.tables.pair(&table, index);
            let (word, parts) = self.placed(before, parts, run.host + number, space);
            self.tables.set(&table, index, word, parts);
        }
        Ok(clusters.start + run.clusters * geometry.cluster())
    }

    /// How many clusters at the beginning of a range have no place.
    fn unplaced(&self, table: &Pin<'_>, clusters: Range<u64>) -> Result<u64, IoError> {
        let mut count = 0;
        for at in clusters.step_by(byte_count(self.geometry.cluster())) {
            match self.geometry.decode(self.tables.pair(table, self.geometry.l2_index(at)).0) {
                Entry::Unallocated | Entry::Zero { host: None, .. } => count += 1,
                Entry::Invalid if count == 0 => return Err(IoError::Io),
                _ => break,
            }
        }
        Ok(count)
    }

    /// The words of a cluster that reads as zeroes and has a place now: what hides the image below goes on to hide it.
    fn placed(&self, before: u64, parts: u64, host: u64, space: Preallocation) -> (u64, u64) {
        let geometry = self.geometry;
        let only_place = space == Preallocation::Metadata;
        match geometry.decode(before) {
            Entry::Zero { .. } if only_place => (geometry.zero_entry(Some(host)), parts),
            _ if only_place || parts == 0 => (geometry.data_entry(host), parts),
            _ => (geometry.data_entry(host), ALL_PARTS),
        }
    }

    /// Has the file give clusters the space that is wanted; they are zeroes there.
    async fn make_space(&self, io: &Handle, run: Run, space: Preallocation) -> Result<(), IoError> {
        let (data, start) = (self.data.get(), run.host);
        // A data file ends with the disk.
        let end = (start + run.clusters * self.geometry.cluster()).min(data.length());
        match space {
            Preallocation::Off | Preallocation::Metadata if run.fresh => Ok(()),
            Preallocation::Full => {
                let mut at = start;
                while at < end {
                    let len = PIECE.min(end - at);
                    let memory = Memory::from(Buf::new(byte_count(len)));
                    let write = Request { kind: Kind::Write, fua: false, offset: at, len, memory };
                    data.handle(io, write).await.1?;
                    at += len;
                }
                Ok(())
            }
            _ => {
                let kind = Kind::Zero { unmap: space != Preallocation::Falloc };
                let len = end.saturating_sub(start);
                data.handle(io, Request { kind, fua: false, offset: start, len, memory: Memory::empty() }).await.1
            }
        }
    }

    /// Takes the places of bytes away that do not become the disk's.
    async fn give_up(&self, io: &Handle, new: Range<u64>, points: &Points) -> Result<(), IoError> {
        let (geometry, span) = (self.geometry, self.geometry.l2_span());
        let clusters =
            geometry.clusters(new.start) * geometry.cluster()..geometry.clusters(new.end) * geometry.cluster();
        let tables = geometry.l1_index(new.start)..self.tables.l1_entries().min(geometry.l1_index(new.end - 1) + 1);
        for index in tables {
            let start = (index as u64 * span).max(clusters.start);
            let end = (index as u64 * span).saturating_add(span).min(clusters.end);
            if self.is_only_in_memory(index) {
                self.drop_entries(io, start..end, points).await?;
                self.drop_if_empty(io, index).await?;
            }
        }
        self.drop_entries(io, clusters, points).await?;
        self.drop_tables(io, new.start).await
    }

    /// Whether the file has nothing of a table yet.
    fn is_only_in_memory(&self, index: usize) -> bool {
        self.tables.l1(index) != 0 && self.writeback.l1_in_file().get(index).is_none_or(|word| *word == 0)
    }

    /// Takes a table away that was made in vain: there may be no room for it in the file.
    async fn drop_if_empty(&self, io: &Handle, index: usize) -> Result<(), IoError> {
        let (start, span) = (index as u64 * self.geometry.l2_span(), self.geometry.l2_span());
        let _clusters = self.clusters.lock(start..start.saturating_add(span)).await;
        let _pause = self.writeback.pause().await;
        let (Ok(Some((host, _))), Some(pin)) = (self.tables.table(index), self.tables.pin(index)) else {
            return Ok(());
        };
        if !self.is_only_in_memory(index) || pin.copy().iter().any(|word| *word != 0) {
            return Ok(());
        }
        self.tables.set_l1(index, 0);
        // Nobody has to write it.
        drop(self.tables.take_dirty(index));
        self.drop_table(io, host).await
    }
}
