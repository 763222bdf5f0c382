//! Clusters of an image that bitmaps and their directory are in: taken for them, and given back.

use super::extend;
use crate::error::IoError;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::metadata::Structure;
use crate::reactor::Handle;
use std::ops::Range;

/// What was taken and not yet put to use.
#[derive(Default)]
pub(super) struct Taken(pub(super) Vec<Range<u64>>);

impl Image {
    /// Takes up to `most` clusters in a row, `least` at least; the file reaches that far. No guest is led there.
    pub(super) async fn take_for_bitmaps(
        &self,
        io: &Handle,
        least: u64,
        most: u64,
        taken: &mut Taken,
    ) -> Result<Range<u64>, IoError> {
        let run = match least == most {
            true => self.refcounts.allocate_contiguous(io, most).await?,
            false => self.refcounts.allocate(io, most).await?,
        };
        let range = run.host..run.host + run.clusters * self.geometry.cluster();
        extend(&mut taken.0, range.clone());
        self.refcounts.reserve(range.clone());
        self.tables.metadata().make(Structure::BitmapDirectory, range.clone(), run.fresh);
        self.tables.forbid_new_metadata();
        self.store.grow(io, range.end).await?;
        Ok(range)
    }

    /// Gives clusters back that nothing in the file leads to. What cannot be given back leaks.
    pub(super) async fn free_of_bitmaps(&self, io: &Handle, ranges: Vec<Range<u64>>) {
        let cluster = self.geometry.cluster();
        for bytes in ranges {
            let clusters = bytes.start..bytes.end.next_multiple_of(cluster);
            self.tables.metadata().remove(clusters.clone());
            self.refcounts.unreserve(clusters.clone());
            let count = (clusters.end - clusters.start) / cluster;
            if let Err(error) = self.refcounts.release(io, bytes.start, count).await {
                tracing::warn!(%error, offset = bytes.start, count, "clusters of a bitmap could not be freed: they leak");
            }
        }
    }
}
