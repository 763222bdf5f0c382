//! Which of the disk's tables and clusters are its own again, because a snapshot that shared them is gone.

use crate::error::IoError;
use crate::node::points::Points;
use crate::node::qcow2::entry::{COPIED, Entry};
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

impl Image {
    /// Makes all entries of the disk say so that lead to what has a reference count of one. Guests go on.
    pub(super) async fn give_flags_back(&self, io: &Handle, points: &Points) -> Result<(), IoError> {
        for index in 0..self.tables.l1_entries() {
            self.flag_table(io, index, points).await?;
        }
        Ok(())
    }

    async fn flag_table(&self, io: &Handle, index: usize, points: &Points) -> Result<(), IoError> {
        let Ok(Some(_)) = self.tables.table(index) else { return Ok(()) };
        let (span, at) = (self.geometry.l2_span(), index as u64);
        let start = at.saturating_mul(span);
        let _clusters = self.clusters.lock(start..start.saturating_add(span)).await;
        let _turn = self.table_turns.lock(at..at + 1).await;
        let Ok(Some((host, copied))) = self.tables.table(index) else { return Ok(()) };
        if self.refcounts.get(io, host).await? != 1 {
            // What it leads to is shared with it.
            return Ok(());
        }
        if !copied {
            self.change_l1(index, self.tables.l1(index) | COPIED);
        }
        let table = loop {
            if let Some(table) = self.tables.load(io, index).await? {
                break table;
            }
            self.flush(io, points).await?;
        };
        for entry in (0..self.geometry.l2_words()).step_by(self.geometry.entry_words()) {
            let word = table.word(entry);
            let host = match self.geometry.decode(word) {
                Entry::Data { host, copied: false } | Entry::Zero { host: Some(host), copied: false } => host,
                _ => continue,
            };
            if self.refcounts.get(io, host).await? == 1 {
                table.set(entry, word | COPIED);
            }
        }
        Ok(())
    }
}
