//! Entries past the end of a disk. They are not noted for the process after this one: until the header says so they
//! are of no disk, and they are written back before it does.

use crate::error::IoError;
use crate::node::points::Points;
use crate::node::qcow2::entry::{ALL_PARTS, Entry};
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;
use std::ops::Range;

impl Image {
    /// Makes whole clusters read as zeroes, although the backing file has something there.
    pub(super) async fn hide(&self, io: &Handle, clusters: Range<u64>, points: &Points) -> Result<(), IoError> {
        self.each_table_of(io, clusters, self.geometry.zero_entry(None), true, points).await
    }

    /// Takes the entries of whole clusters away, and what they lead to.
    pub(super) async fn drop_entries(&self, io: &Handle, clusters: Range<u64>, points: &Points) -> Result<(), IoError> {
        self.each_table_of(io, clusters, 0, false, points).await
    }

    /// Makes all entries of these clusters `word`; `everywhere` or only where there are tables.
    async fn each_table_of(
        &self,
        io: &Handle,
        clusters: Range<u64>,
        word: u64,
        everywhere: bool,
        points: &Points,
    ) -> Result<(), IoError> {
        let span = self.geometry.l2_span();
        let mut at = clusters.start;
        while at < clusters.end {
            let end = (at / span + 1).saturating_mul(span).min(clusters.end);
            if everywhere || self.tables.l1(self.geometry.l1_index(at)) != 0 {
                self.replace(io, at..end, word, points).await?;
            }
            at = end;
        }
        Ok(())
    }

    /// Does so in one table.
    async fn replace(&self, io: &Handle, clusters: Range<u64>, word: u64, points: &Points) -> Result<(), IoError> {
        let geometry = self.geometry;
        // An extended entry says in its second word that all is zero.
        let hides = geometry.extended && word != 0;
        let (word, bitmap) = if hides { (0, ALL_PARTS << 32) } else { (word, 0) };
        let _clusters = self.clusters.lock(clusters.clone()).await;
        let table = self.table_for_change(io, geometry.l1_index(clusters.start), points).await?;
        let mut at = clusters.start;
        while at < clusters.end {
            let index = geometry.l2_index(at);
            let (before, parts) = self.tables.pair(&table, index);
            // What leads nowhere it may is for who repairs the image.
            let last = geometry.decode(before);
            if (before, parts) != (word, bitmap) && last != Entry::Invalid {
                self.tables.set(&table, index, word, bitmap);
                self.free_replaced(last, None, true);
            }
            at += geometry.cluster();
        }
        Ok(())
    }
}
