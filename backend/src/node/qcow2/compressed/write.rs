//! Writing whole clusters compressed, where they have no space yet; with what does not become smaller nothing is done.

use super::deflate::deflate;
use crate::error::IoError;
use crate::io::{Memory, byte_count};
use crate::node::points::Points;
use crate::node::qcow2::entry::Entry;
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

impl Image {
    /// Whether a part of a request begins with a cluster that is to be compressed: a whole one, or all that the disk has
    /// of its last one.
    pub(in crate::node::qcow2) fn compresses(&self, offset: u64, len: u64) -> bool {
        let whole = len >= self.geometry.cluster() || offset.saturating_add(len) >= self.length();
        self.packer.is_used() && whole && self.geometry.in_cluster(offset) == 0
    }

    /// Writes the cluster at `offset` compressed, from what `memory` has in view, `len` bytes; whether it did.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] where the image is corrupt.
    pub(in crate::node::qcow2) async fn write_compressed(
        &self,
        io: &Handle,
        offset: u64,
        (memory, len): (&Memory, u64),
        points: &Points,
    ) -> Result<bool, IoError> {
        let geometry = self.geometry;
        let mut cluster = vec![0; byte_count(geometry.cluster())];
        memory.copy_to(0, cluster.get_mut(..byte_count(len)).unwrap_or_default());
        let method = self.inflater.method();
        let deflated = io.aside(move || deflate(method, &cluster)).await.ok_or(IoError::Io)?;
        let Some(bytes) = deflated else { return Ok(false) };
        let _clusters = self.clusters.lock(offset..offset.saturating_add(geometry.cluster())).await;
        let table = self.table_for_change(io, geometry.l1_index(offset), points).await?;
        let index = geometry.l2_index(offset) * geometry.entry_words();
        let before = geometry.decode(table.word(index));
        if matches!(before, Entry::Data { copied: true, .. } | Entry::Invalid) {
            return Ok(false);
        }
        let host = self.pack(io, &bytes).await?;
        let place = host..host + bytes.len() as u64;
        let Some(word) = geometry.compressed_entry(host, bytes.len() as u64) else {
            self.unpack(io, place).await?;
            return Ok(false);
        };
        let set = || {
            table.set(index, word);
            if geometry.extended {
                table.set(index + 1, 0);
            }
        };
        // It is not noted for the process after this one: whoever has it written begins anew.
        if let Err(error) = self.note(io, &[], points, set).await {
            self.unpack(io, place).await?;
            return Err(error);
        }
        self.free_replaced(before, None, false);
        Ok(true)
    }
}
