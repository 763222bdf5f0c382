//! Clusters for tables that snapshots need.

use crate::error::IoError;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::metadata::Structure;
use crate::reactor::Handle;
use std::ops::Range;

impl Image {
    /// Clusters for so many bytes of metadata, which the file reaches; none for no bytes.
    pub(super) async fn take_place(
        &self,
        io: &Handle,
        structure: Structure,
        bytes: u64,
    ) -> Result<Range<u64>, IoError> {
        if bytes == 0 {
            return Ok(0..0);
        }
        let run = self.refcounts.allocate_contiguous(io, self.geometry.clusters(bytes)).await?;
        let all = run.host..run.host + run.clusters * self.geometry.cluster();
        let made = self.tables.metadata().make(structure, all.clone(), run.fresh);
        self.tables.forbid_new_metadata();
        let result = match made {
            true => self.store.grow(io, all.end).await,
            // The counts of a corrupt image call a table free.
            false => {
                self.refcounts.release(io, run.host, run.clusters).await?;
                return Err(IoError::Io);
            }
        };
        self.refcounts.protect(all.clone());
        let place = all.start..all.start + bytes;
        match result {
            Ok(()) => Ok(place),
            Err(error) => {
                self.give_place_back(io, &place).await;
                Err(error)
            }
        }
    }

    /// Gives back clusters of metadata that no header leads to. What cannot be given back leaks.
    pub(super) async fn give_place_back(&self, io: &Handle, place: &Range<u64>) {
        if place.is_empty() {
            return;
        }
        let clusters = self.geometry.clusters(place.end - place.start);
        let all = place.start..place.start + clusters * self.geometry.cluster();
        self.tables.metadata().remove(all.clone());
        self.refcounts.unprotect(all);
        if let Err(error) = self.refcounts.release(io, place.start, clusters).await {
            tracing::warn!(%error, offset = place.start, clusters, "clusters of an image could not be freed: they leak");
        }
    }
}
