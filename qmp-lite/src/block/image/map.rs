//! What an image is made of, run by run; no command tells that.

use crate::schema::{Qapi, qapi_struct};
use crate::wire;

qapi_struct! {
    /// A run of an image.
    pub struct MapEntry "MapEntry" {
        /// Where it begins on the disk, in bytes.
        "start" start: u64,
        /// Its bytes.
        "length" length: u64,
        /// Which image of the chain it was found in, 0 for the topmost.
        "depth" depth: u64,
        /// Whether any image has it.
        "present" present: bool,
        /// Whether it reads as zeroes.
        "zero" zero: bool,
        /// Whether it takes space.
        "data" data: bool,
        /// Whether it is compressed.
        "compressed" compressed: bool,
        /// Where it is in its file, if it is there as it is.
        "offset" offset: Option<u64>,
    }
}

impl MapEntry {
    /// Runs as JSON, one on each line, with `qemu-img`'s spaces.
    pub fn list_to_json(runs: &[Self]) -> String {
        let line = |run: &Self| wire::to_line(&run.encode()).trim_end().replacen('{', "{ ", 1);
        format!("[{}]\n", runs.iter().map(line).collect::<Vec<_>>().join(",\n"))
    }
}
