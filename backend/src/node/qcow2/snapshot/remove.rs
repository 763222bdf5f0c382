//! Deleting a snapshot while guests use the disk: the header forgets it first, then what it had to itself is free.

use super::share::SnapshotFault;
use super::{Snapshot, SnapshotError, SnapshotTable};
use crate::error::IoError;
use crate::node::points::Points;
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

impl Image {
    /// Deletes the snapshot of this id and this name, as far as they are said.
    ///
    /// # Errors
    /// It is not there, or cannot be read: it stays. The storage's, and what leads nowhere it may: it is gone, and not
    /// all of its space is free before the image is opened again.
    pub async fn delete_snapshot(
        &self,
        io: &Handle,
        id: Option<&str>,
        name: Option<&str>,
        points: &Points,
    ) -> Result<Snapshot, SnapshotFault> {
        if self.is_read_only() {
            return Err(IoError::Permission.into());
        }
        self.can_have_snapshots()?;
        let table = self.snapshots();
        let wanted = || SnapshotError::NotFound(name.or(id).unwrap_or_default().to_owned());
        let snapshot = table.find_both(id, name).ok_or_else(wanted)?.clone();
        let l1 = snapshot.l1_range(self.geometry, self.file().length());
        let l1 = match (l1, snapshot.l1_entries) {
            (Some(l1), _) => l1,
            (None, 0) => 0..0,
            (None, _) => return Err(SnapshotError::Table(snapshot.name).into()),
        };
        let words = match snapshot.l1_entries {
            0 => Vec::new(),
            entries => self.store.read_words(io, l1.start, entries as usize).await?,
        };
        let SnapshotTable { mut snapshots, .. } = SnapshotTable::clone(&table);
        snapshots.retain(|other| *other != snapshot);
        self.name_snapshots(io, snapshots, false).await?;
        let freed = self.free_snapshot(io, &words, &l1, points).await;
        freed.inspect_err(|error| self.tell_unsettled(error))?;
        Ok(snapshot)
    }

    async fn free_snapshot(
        &self,
        io: &Handle,
        words: &[u64],
        l1: &std::ops::Range<u64>,
        points: &Points,
    ) -> Result<(), SnapshotFault> {
        let lowered = self.lower_tree(io, words).await;
        self.give_place_back(io, l1).await;
        lowered?;
        self.give_flags_back(io, points).await?;
        self.settle_counts(io, points).await
    }
}

impl SnapshotTable {
    /// The snapshot of this id and this name, as far as they are said.
    pub fn find_both(&self, id: Option<&str>, name: Option<&str>) -> Option<&Snapshot> {
        let fits = |snapshot: &&Snapshot| {
            id.is_none_or(|id| snapshot.id == id) && name.is_none_or(|name| snapshot.name == name)
        };
        self.snapshots.iter().find(fits)
    }
}
