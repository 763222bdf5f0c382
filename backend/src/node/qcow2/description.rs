//! What an image says of itself, for whoever asks without opening it for a guest.
//!
//! Reads the header, the table of snapshots and the bitmap directory; no table that leads to clusters.

use super::bitmap_directory;
use super::bitmaps::{LoadError, StoredBitmap};
use super::header::Header;
use super::open::{OpenError, look_at_header};
use super::snapshot::SnapshotTable;
use super::store::Store;
use crate::node::Node;
use crate::reactor::Handle;
use std::sync::Arc;

/// An image as its metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its header.
    pub header: Header,
    /// Its internal snapshots.
    pub snapshots: SnapshotTable,
    /// Its persistent bitmaps, if they may be trusted.
    pub bitmaps: Vec<StoredBitmap>,
}

impl Description {
    /// Reads that of the image in `file`.
    ///
    /// # Errors
    /// The storage's; what is wrong with the image.
    pub async fn read(io: &Handle, file: &Arc<Node>) -> Result<Self, OpenError> {
        let header = look_at_header(io, file).await?;
        let store = Store::new(file.clone());
        let snapshots = SnapshotTable::of(io, &store, &header).await?;
        let bitmaps = read_bitmaps(io, &store, &header).await?;
        Ok(Self { header, snapshots, bitmaps })
    }
}

/// The bitmaps that an image's directory has, without a look at their bits.
async fn read_bitmaps(io: &Handle, store: &Store, header: &Header) -> Result<Vec<StoredBitmap>, LoadError> {
    let Some(bitmaps) = header.bitmaps else { return Ok(Vec::new()) };
    let directory = store.read(io, bitmaps.offset, bitmaps.size).await;
    let directory = directory.map_err(LoadError::ReadDirectory)?;
    let file_length = store.node().length();
    let image = bitmap_directory::Image { geometry: header.geometry(), size: header.size, file_length };
    let entries = bitmap_directory::parse(directory.as_slice(), bitmaps.count, image)?;
    Ok(entries.iter().map(Into::into).collect())
}
