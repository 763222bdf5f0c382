//! What an image says of its bitmaps, for whoever asks.

use crate::node::qcow2::bitmap_directory::BitmapEntry;
use crate::node::qcow2::image::Image;

/// A bitmap of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBitmap {
    /// Its name.
    pub name: String,
    /// Bytes per bit.
    pub granularity: u32,
    /// What the file has of it is not to be believed.
    pub in_use: bool,
    /// It records when the image is opened.
    pub auto: bool,
}

impl Image {
    /// The bitmaps that the file has as it is now, in its order.
    pub fn stored_bitmaps(&self) -> Vec<StoredBitmap> {
        let in_file = self.bitmaps.in_file();
        in_file.held.iter().map(|held| (&held.entry).into()).collect()
    }
}

impl From<&BitmapEntry> for StoredBitmap {
    fn from(entry: &BitmapEntry) -> Self {
        Self {
            name: entry.name.clone(),
            granularity: 1_u32.checked_shl(entry.granularity_bits.into()).unwrap_or(u32::MAX),
            in_use: entry.in_use,
            auto: entry.auto,
        }
    }
}
