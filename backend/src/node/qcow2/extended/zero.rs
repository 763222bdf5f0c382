//! Zeroes and discards of whole clusters.

use crate::error::IoError;
use crate::node::points::Points;
use crate::node::qcow2::entry::{ALL_PARTS, Entry};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::Pin;
use crate::node::qcow2::zero::Fate;
use crate::reactor::Handle;
use std::ops::Range;

/// All parts read as zeroes.
const ZEROES: u64 = ALL_PARTS << 32;

impl Image {
    /// Gives whole clusters of one table their fate; whoever calls has them locked.
    pub(in crate::node::qcow2) async fn change_parts(
        &self,
        io: &Handle,
        table: &Pin<'_>,
        clusters: Range<u64>,
        fate: Fate,
        points: &Points,
    ) -> Result<(), IoError> {
        let geometry = self.geometry;
        let mut at = clusters.start;
        while at < clusters.end {
            let index = geometry.l2_index(at);
            let (word, bitmap) = self.tables.pair(table, index);
            let before = geometry.decode(word);
            if let Some((after, parts)) = self.parts_after(word, bitmap, fate) {
                self.note(io, &[], points, || self.tables.set(table, index, after, parts)).await?;
                if before == Entry::Invalid && !geometry.external_data {
                    self.found_harmless(&Self::dropped(word));
                }
                if matches!(fate, Fate::Unmap | Fate::Discard) {
                    self.punch_apart(io, std::iter::once((at >> geometry.cluster_bits, before))).await;
                }
                let kept = if let Entry::Data { host, .. } = geometry.decode(after) { Some(host) } else { None };
                self.free_replaced(before, kept, fate != Fate::Keep);
            }
            at += geometry.cluster();
        }
        Ok(())
    }

    /// The words of a cluster with this fate; `None` if they may stay as they are.
    fn parts_after(&self, word: u64, bitmap: u64, fate: Fate) -> Option<(u64, u64)> {
        match self.geometry.decode(word) {
            _ if fate == Fate::Populate && (word, bitmap) != (0, 0) => None,
            Entry::Unallocated if bitmap == ZEROES || (bitmap == 0 && !self.shows_another()) => None,
            Entry::Data { copied: true, .. } if fate == Fate::Keep => (bitmap != ZEROES).then_some((word, ZEROES)),
            _ => Some((0, ZEROES)),
        }
    }
}
