//! In which state a raw data file was left when its image was closed: whoever writes to it without the image would make
//! the image's bitmaps wrong.

use crate::node::qcow2::header::{Header, bits};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::journal::tie::{Tie, shortened};
use crate::node::{Driver, Node};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use tidemark_cbt::journal::fnv1a;

impl Image {
    /// What the header is to say of the data file that nobody writes to any more; `None` without one that others could
    /// write to, and of a block device, which does not say when it was written to.
    pub(super) fn data_left(&self) -> Option<Tie> {
        let header = self.header();
        if header.autoclear & bits::AUTOCLEAR_RAW_DATA == 0 || !self.bitmaps.has_any() {
            return None;
        }
        state(&self.data.get()).map(|number| Tie { number, data_left: true, ..Tie::default() })
    }
}

/// Whether a data file is not as the image with this header has left it.
pub(in crate::node::qcow2) fn is_changed(header: &Header, data: &Node) -> bool {
    let tie = header.tie();
    // What stands for it knows nothing of it: whoever put it there answers for the file.
    let is_there = !matches!(data.driver(), Driver::Null(_));
    tie.data_left && is_there && state(data) != Some(tie.number)
}

/// Size and time of the last change of a file, in one number.
pub(in crate::node::qcow2) fn state(node: &Node) -> Option<u64> {
    let path = match node.driver() {
        Driver::File(file) => file.path(),
        _ => return state(&*node.child()?),
    };
    let stat = std::fs::metadata(path).ok().filter(|stat| !stat.file_type().is_block_device())?;
    let parts = [stat.size().cast_signed(), stat.ctime(), stat.ctime_nsec()];
    // Two states have the same number once in 2^40.
    let bytes = parts.into_iter().flat_map(i64::to_le_bytes);
    let hash = fnv1a(bytes);
    Some(shortened(hash ^ hash >> 40))
}
