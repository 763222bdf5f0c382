//! Storing bitmaps while the image is in use: what the file has of them stays marked as in use, and is a little behind.

use crate::bitmaps::Persistent;
use crate::node::points::Points;
use crate::node::qcow2::bitmaps::StoreError;
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

/// Nanoseconds between two looks whether bitmaps are complete.
const LOOK_NS: u64 = 1_000_000;

impl Image {
    /// Stores the node's persistent bitmaps for an opening after a crash, while writes go on: each as it is now or
    /// later. Nothing, and false, where no journal is kept.
    ///
    /// # Errors
    /// See [`StoreError`]; the file has what it had.
    pub async fn save_bitmaps(&self, io: &Handle, points: &Points) -> Result<bool, StoreError> {
        let Some(journal) = self.changes.journal().filter(|_| !self.is_broken()) else { return Ok(false) };
        // Before looking at the bitmaps: what others have seen before this does not take the place of what is seen here.
        let _turn = self.bitmaps.turn().await;
        // What was swapped out is merged first: it is not in the journal any more when this has ended.
        while points.tracking().is_unsettled() {
            io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
        }
        // Before looking at the bitmaps: what they lack after that is in the journal.
        let covers = journal.is_covering();
        let bitmaps = points.tracking().to_store()?;
        // A bitmap that was cleared does not mark what was written before: a power cut must not undo that any more.
        self.flush(io, points).await.map_err(StoreError::Flush)?;
        self.put_bitmaps(io, &bitmaps, true).await?;
        if covers {
            self.name_changes(io, &journal).await?;
        }
        Ok(true)
    }

    /// Stores what was loaded, before the image has a node.
    pub(super) async fn save_loaded(&self, io: &Handle) -> Result<(), StoreError> {
        let loaded: Vec<Persistent> = self.bitmaps.loaded().into_iter().filter(|bitmap| !bitmap.inconsistent).collect();
        let _turn = self.bitmaps.turn().await;
        self.put_bitmaps(io, &loaded, true).await
    }
}
