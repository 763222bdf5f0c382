//! What is told of the bitmaps of images that were only looked at; no command tells that.

use tidemark_backend::bitmaps::BitmapInfo;

use super::inspected::lines;
use crate::bitmap::BlockDirtyInfo;
use crate::schema::{Qapi, qapi_struct};

/// The bitmaps of an image as JSON, in lines.
pub fn bitmaps_to_json(bitmaps: Vec<BitmapInfo>) -> String {
    lines(&bitmaps.into_iter().map(|bitmap| BlockDirtyInfo::from(bitmap).encode()).collect())
}

/// What has come of an image's bitmaps as JSON, in lines.
pub fn recoveries_to_json(bitmaps: Vec<BitmapRecovery>) -> String {
    lines(&bitmaps.into_iter().map(|bitmap| bitmap.encode()).collect())
}

qapi_struct! {
    /// A bitmap of an image whose bitmaps were recovered.
    pub struct BitmapRecovery "BitmapRecovery" {
        /// Its name.
        "name" name: String,
        /// Whether it records.
        "recording" recording: bool,
        /// Whether it can only be removed.
        "inconsistent" inconsistent: bool,
        /// Bytes that it marks and that were not marked when it was stored, if it was in use: at most so many are marked
        /// though nobody has changed them.
        "more" more: Option<u64>,
        /// Why it is inconsistent.
        "reason" reason: Option<String>,
    }
}

qapi_struct! {
    /// Whether a backup can be made from a bitmap of a chain of images.
    pub struct BitmapChainCheck "BitmapChainCheck" {
        /// The top image.
        "filename" filename: String,
        /// The bitmap's name.
        "bitmap" bitmap: String,
        /// Whether it can.
        "valid" valid: bool,
        /// The number of the rule that is broken.
        "rule" rule: Option<u64>,
        /// Where in `layers`, from 0 on.
        "layer" layer: Option<u64>,
        /// How.
        "reason" reason: Option<String>,
        /// The images, from the top on.
        "layers" layers: Vec<BitmapChainLayer>,
    }
}

qapi_struct! {
    /// An image of a chain.
    pub struct BitmapChainLayer "BitmapChainLayer" {
        /// Its file.
        "filename" filename: String,
        /// Whether it has the bitmap, and in which state: missing, recording, disabled or inconsistent.
        "bitmap" bitmap: String,
    }
}

impl BitmapChainCheck {
    /// As JSON, in lines.
    pub fn to_json(&self) -> String {
        lines(&self.encode())
    }
}
