//! What queries tell about images.
//!
//! Knows nodes from outside, and of an image what it says of itself.

mod bitmaps;
mod check;
mod inspected;
mod map;
mod measure;
mod snapshot;
mod specific;

pub use bitmaps::{BitmapChainCheck, BitmapChainLayer, BitmapRecovery, bitmaps_to_json, recoveries_to_json};
pub use check::ImageCheck;
pub use inspected::{BlockChildInfo, BlockGraphInfo};
pub use map::MapEntry;
pub use measure::BlockMeasureInfo;
pub use snapshot::{SnapshotInfo, snapshots_to_json};
pub use specific::{
    ImageInfoSpecific, ImageInfoSpecificData, ImageInfoSpecificQCow2, Qcow2BitmapInfo, Qcow2BitmapInfoFlags,
    Qcow2CompressionType,
};

use std::path::Path;
use std::sync::Arc;

use tidemark_backend::node::qcow2::bitmaps::StoredBitmap;
use tidemark_backend::node::qcow2::header::{Header, bits};
use tidemark_backend::node::qcow2::snapshot::Snapshot;
use tidemark_backend::node::{Driver, Node};

use super::info::filename;
use crate::schema::qapi_struct;

qapi_struct! {
    /// An image.
    pub struct ImageInfo "ImageInfo" {
        /// Its file name, or what stands for it.
        "filename" filename: String,
        /// Its format: the name of the driver.
        "format" format: String,
        /// Whether it was not closed in order by a program that keeps reference counts until then.
        "dirty-flag" dirty_flag: Option<bool>,
        /// The bytes that its file takes up on the storage, if it has one.
        "actual-size" actual_size: Option<u64>,
        /// The size of the disk in bytes.
        "virtual-size" virtual_size: u64,
        /// Bytes of a cluster, of a format that has them.
        "cluster-size" cluster_size: Option<i64>,
        /// The image below, as the header names it.
        "backing-filename" backing_filename: Option<String>,
        /// Its path from where this program runs.
        "full-backing-filename" full_backing_filename: Option<String>,
        /// Its format, as the header names it.
        "backing-filename-format" backing_filename_format: Option<String>,
        /// Its internal snapshots, if there are any.
        "snapshots" snapshots: Option<Vec<SnapshotInfo>>,
        /// The image that shows where this one has nothing, or the one below a filter.
        "backing-image" backing_image: Option<Box<ImageInfo>>,
        /// What only this format has.
        "format-specific" format_specific: Option<ImageInfoSpecific>,
    }
}

/// What is to be told of a node's image; with `flat`, not what is below it.
pub(super) fn image(node: &Node, flat: bool) -> ImageInfo {
    let below = below(node).filter(|_| !flat);
    let info = match node.driver() {
        Driver::Qcow2(image) => {
            ImageInfo::of_qcow2(filename(node), &image.header(), &image.shown_snapshots(), &image.stored_bitmaps())
        }
        Driver::File(file) => ImageInfo {
            format_specific: (!file.is_device()).then(ImageInfoSpecific::file),
            ..ImageInfo::new(filename(node), node.driver_name())
        },
        _ => ImageInfo::new(filename(node), node.driver_name()),
    };
    ImageInfo {
        dirty_flag: dirty_flag(node),
        actual_size: actual_size(node),
        virtual_size: node.length(),
        cluster_size: cluster_size(node),
        snapshots: snapshots(node),
        backing_image: below.map(|below| Box::new(image(&below, flat))),
        ..info
    }
}

impl ImageInfo {
    fn new(filename: String, format: &str) -> Self {
        Self {
            filename,
            format: format.to_owned(),
            dirty_flag: None,
            actual_size: None,
            virtual_size: 0,
            cluster_size: None,
            backing_filename: None,
            full_backing_filename: None,
            backing_filename_format: None,
            snapshots: None,
            backing_image: None,
            format_specific: None,
        }
    }

    /// What a qcow2 image says of itself.
    fn of_qcow2(filename: String, header: &Header, snapshots: &[Snapshot], bitmaps: &[StoredBitmap]) -> Self {
        let backing = header.backing.as_ref();
        Self {
            dirty_flag: Some(header.incompatible & bits::INCOMPATIBLE_DIRTY != 0),
            virtual_size: header.size,
            cluster_size: Some(1 << header.cluster_bits),
            backing_filename: backing.map(|backing| backing.file.clone()),
            full_backing_filename: backing.map(|backing| full_path(&filename, &backing.file)),
            backing_filename_format: backing.and_then(|backing| backing.format.clone()),
            snapshots: SnapshotInfo::list(snapshots),
            format_specific: Some(ImageInfoSpecific::qcow2(header, bitmaps)),
            ..Self::new(filename, "qcow2")
        }
    }
}

/// The node below a filter, which shows the same disk, or the one that shows where an image has nothing.
pub(super) fn below(node: &Node) -> Option<Arc<Node>> {
    match node.driver() {
        _ if node.is_filter() => node.child(),
        Driver::Qcow2(image) => image.backing(),
        _ => None,
    }
}

/// The internal snapshots of a node's image, or of the one below.
fn snapshots(node: &Node) -> Option<Vec<SnapshotInfo>> {
    match node.driver() {
        Driver::Qcow2(image) => SnapshotInfo::list(&image.shown_snapshots()),
        Driver::Raw(_) | Driver::BlkDebug(_) | Driver::Throttle(_) | Driver::Passing(_) => snapshots(&*node.child()?),
        _ => None,
    }
}

/// Bytes of a cluster of a node's image, or of the one below.
fn cluster_size(node: &Node) -> Option<i64> {
    match node.driver() {
        Driver::Qcow2(image) => i64::try_from(image.cluster_size()).ok(),
        Driver::Raw(_) => cluster_size(&*node.child()?),
        _ if node.is_filter() => cluster_size(&*node.child()?),
        _ => None,
    }
}

/// Drivers without any file have nothing to say.
fn dirty_flag(node: &Node) -> Option<bool> {
    match node.driver() {
        Driver::File(_) => Some(false),
        Driver::Qcow2(image) => Some(image.header().incompatible & bits::INCOMPATIBLE_DIRTY != 0),
        Driver::Raw(_) => dirty_flag(&*node.child()?),
        _ if node.is_filter() => dirty_flag(&*node.child()?),
        _ => None,
    }
}

/// The space that the files of a node take up; 0 without a file, as for QEMU's null driver. A
/// filter has none of its own.
fn actual_size(node: &Node) -> Option<u64> {
    match node.driver() {
        Driver::File(file) => {
            let stat = rustix::fs::fstat(file.fd().ok()?).ok()?;
            Some(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
        }
        Driver::Qcow2(image) => {
            let data = image.data_file().map_or(Some(0), |data| actual_size(&data));
            Some(actual_size(&image.file())?.saturating_add(data?))
        }
        Driver::Raw(_)
        | Driver::Throttle(_)
        | Driver::Passing(_)
        | Driver::CopyBeforeWrite(_)
        | Driver::SnapshotAccess(_) => actual_size(&*node.child()?),
        Driver::Null(_) => Some(0),
        Driver::BlkDebug(_) | Driver::Nbd(_) => None,
    }
}

/// A name in the header of the image at `image`, as a path from where that one is; what is no path stays as it is.
fn full_path(image: &str, name: &str) -> String {
    let is_path = name.find([':', '/']).is_none_or(|at| name.as_bytes().get(at) != Some(&b':'));
    match Path::new(image).parent().filter(|_| is_path) {
        Some(directory) => directory.join(name).display().to_string(),
        None => name.to_owned(),
    }
}
