//! The file after its image has become shorter: what nothing leads to at its end goes.
//!
//! By then all tables without it are stable, and so are the counts. Nobody can be reading there: clusters are free when
//! whoever found them has ended. Clusters that are taken meanwhile are counted first, and stay.

use crate::epoch::Passage;
use crate::error::IoError;
use crate::node::points::Points;
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

/// Between two looks whether requests have ended, in nanoseconds.
const LOOK_NS: u64 = 100_000;

impl Image {
    /// Takes all away that the image has of the disk: what is below shows everywhere. No request is under way, or comes.
    ///
    /// # Errors
    /// The storage's; a part is gone then.
    pub async fn empty(&self, io: &Handle, points: &Points) -> Result<(), IoError> {
        let cluster = self.cluster_size();
        self.drop_entries(io, 0..self.length().next_multiple_of(cluster), points).await?;
        self.cut_tail(io, points).await;
        self.flush(io, points).await
    }

    /// Cuts the file off where the last cluster in use ends. What cannot be cut off stays, which harms nobody.
    pub async fn cut_tail(&self, io: &Handle, points: &Points) {
        if let Err(error) = self.try_to_cut_tail(io, points).await {
            tracing::warn!(file = self.file().name(), %error, "Failed to truncate the tail of the image");
        }
    }

    async fn try_to_cut_tail(&self, io: &Handle, points: &Points) -> Result<(), IoError> {
        // Before anybody is waited for: the tables without what was freed are stable.
        self.flush(io, points).await?;
        let mut passage = Passage::of(points.seats());
        while !passage.is_over() {
            io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
        }
        self.give_back(io).await;
        self.stop_packing(io).await?;
        for run in self.reserve.drain() {
            self.refcounts.release(io, run.host, run.clusters).await?;
        }
        self.refcounts.drop_empty_blocks(io).await?;
        self.flush(io, points).await?;
        let file = self.file();
        self.refcounts.cut(io, async |end| if end < file.length() { file.cut(io, end).await } else { Ok(()) }).await
    }
}
