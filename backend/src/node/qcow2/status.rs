//! What an image's tables say of its content.

use super::image::Image;
use super::map::{Extent, Found};
use crate::error::IoError;
use crate::node::status::Status;
use crate::reactor::Handle;

/// What an image by itself has of a part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Nothing: what is below shows, or zeroes.
    Nothing,
    /// Zeroes.
    Zero {
        /// Where clusters of theirs are in the data file, if they have some all the same.
        host: Option<u64>,
    },
    /// Bytes.
    Data {
        /// Where the first is in the data file.
        host: u64,
    },
    /// Bytes that are compressed.
    Compressed,
}

impl Image {
    /// What the image itself has from `offset` on, and for how many bytes, of at most `len`.
    ///
    /// # Errors
    /// The storage's; the image is corrupt there.
    pub async fn own(&self, io: &Handle, offset: u64, len: u64) -> Result<(u64, Own), IoError> {
        let extent = self.locate(io, offset, len).await?;
        let own = match extent.found {
            Found::Unallocated => Own::Nothing,
            Found::Zero { host, .. } => Own::Zero { host },
            Found::Data { host, .. } => Own::Data { host },
            Found::Compressed { .. } => Own::Compressed,
            Found::Invalid => return Err(IoError::Io),
        };
        Ok((extent.len, own))
    }

    /// How many clusters of the file are counted as used, if they are no more than `most`; else `most`.
    ///
    /// # Errors
    /// The storage's; the counts are corrupt.
    pub async fn count_clusters(&self, io: &Handle, most: u64) -> Result<u64, IoError> {
        let (mut counted, mut at, end) = (0, 0, self.geometry.clusters(self.file().length()));
        while counted < most
            && let Some(cluster) = self.refcounts.next_counted(at).filter(|cluster| *cluster < end)
        {
            counted += self.refcounts.get(io, cluster << self.geometry.cluster_bits).await?.min(1);
            at = cluster + 1;
        }
        Ok(counted)
    }

    /// What is known of the bytes from `offset` on. Where the image has clusters its file is not asked whether they are
    /// holes there.
    pub(in crate::node) async fn status(&self, io: &Handle, offset: u64, len: u64) -> Result<Status, IoError> {
        let extent = self.locate(io, offset, len).await?;
        let backing = match (extent.found, self.backing()) {
            (Found::Data { .. } | Found::Compressed { .. }, _) => return Ok(Status::data(extent.len)),
            (Found::Zero { .. }, _) => return Ok(Status::zeroes(extent.len)),
            (Found::Invalid, _) => return Err(IoError::Io),
            (Found::Unallocated, None) => return Ok(Status::nothing(extent.len)),
            (Found::Unallocated, Some(backing)) => backing,
        };
        match backing.length().checked_sub(offset) {
            Some(rest) if rest > 0 => {
                let status = backing.status(io, offset, extent.len.min(rest)).await?.below();
                let looked_at = Extent { found: Found::Unallocated, len: status.len };
                let still = self.view().is_still(io, looked_at, offset).await?;
                // What was copied here meanwhile may be anything.
                Ok(if still { status } else { Status::data(status.len) })
            }
            // It is as if the shorter image had zeroes there.
            _ => Ok(Status::zeroes(extent.len).below()),
        }
    }
}
