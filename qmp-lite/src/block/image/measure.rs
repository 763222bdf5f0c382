//! How much space an image would take; no command tells that.

use super::inspected::lines;
use crate::schema::{Qapi, qapi_struct};

qapi_struct! {
    /// How much space an image would take, in bytes.
    pub struct BlockMeasureInfo "BlockMeasureInfo" {
        /// More for the bitmaps of the source, if they can be copied.
        "bitmaps" bitmaps: Option<u64>,
        /// With the content that it is measured for.
        "required" required: u64,
        /// With a guest's data everywhere.
        "fully-allocated" fully_allocated: u64,
    }
}

impl BlockMeasureInfo {
    /// As JSON, in lines.
    pub fn to_json(&self) -> String {
        lines(&self.encode())
    }
}
