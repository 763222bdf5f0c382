//! What is told of the bitmaps of images that were only looked at; no command tells that.

use tidemark_backend::bitmaps::BitmapInfo;

use super::inspected::lines;
use crate::bitmap::BlockDirtyInfo;
use crate::schema::{Qapi, qapi_struct};

/// The bitmaps of an image as JSON, in lines.
pub fn bitmaps_to_json(bitmaps: Vec<BitmapInfo>) -> String {
    lines(&bitmaps.into_iter().map(|bitmap| BlockDirtyInfo::from(bitmap).encode()).collect())
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
