//! What queries tell about nodes and exports.
//!
//! Knows nodes from outside; changes nothing.

use std::sync::Arc;

use tidemark_backend::export::ExportInfo;
use tidemark_backend::node::options::DetectZeroes;
use tidemark_backend::node::{Driver, Node};

use super::image::{ImageInfo, below, image};
use super::options::BlockdevDetectZeroesOptions;
use super::throttle;
use crate::bitmap::BlockDirtyInfo;
use crate::schema::qapi_struct;

qapi_struct! {
    /// A node.
    pub struct BlockDeviceInfo "BlockDeviceInfo" {
        /// The image's file name, or what stands for it.
        "file" file: String,
        /// The node's name.
        "node-name" node_name: Option<String>,
        /// Whether writes are refused.
        "ro" ro: bool,
        /// The driver.
        "drv" drv: String,
        /// The image that shows where this one has nothing.
        "backing_file" backing_file: Option<String>,
        /// How many filters and images lie between the node and the last image; always 0 if the list is flat.
        "backing_file_depth" backing_file_depth: i64,
        /// Whether the node is active. Always true.
        "active" active: bool,
        /// Whether the image is encrypted. Always false.
        "encrypted" encrypted: bool,
        /// What becomes of writes of zeroes.
        "detect_zeroes" detect_zeroes: BlockdevDetectZeroesOptions,
        /// Limit of bytes per second. Always 0, unlimited.
        "bps" bps: i64,
        /// Limit of bytes read per second. Always 0, unlimited.
        "bps_rd" bps_rd: i64,
        /// Limit of bytes written per second. Always 0, unlimited.
        "bps_wr" bps_wr: i64,
        /// Limit of requests per second. Always 0, unlimited.
        "iops" iops: i64,
        /// Limit of reads per second. Always 0, unlimited.
        "iops_rd" iops_rd: i64,
        /// Limit of writes per second. Always 0, unlimited.
        "iops_wr" iops_wr: i64,
        /// The image.
        "image" image: ImageInfo,
        /// How caches are used.
        "cache" cache: BlockdevCacheInfo,
        /// Offset beyond which a write is reported. Always 0, none.
        "write_threshold" write_threshold: i64,
        /// Its bitmaps, newest first, if it has any.
        "dirty-bitmaps" dirty_bitmaps: Option<Vec<BlockDirtyInfo>>,
        /// The last point in time, if there has been one since the node was opened: a transaction about its bitmaps, or the
        /// start of a backup. Not in QEMU.
        "x-change-id" x_change_id: Option<String>,
    }
}

qapi_struct! {
    /// How caches below a node are used.
    pub struct BlockdevCacheInfo "BlockdevCacheInfo" {
        /// Whether writes complete before they are stable. Always true: exports decide for their guests.
        "writeback" writeback: bool,
        /// Whether the page cache is bypassed.
        "direct" direct: bool,
        /// Whether flushes are acknowledged without doing them.
        "no-flush" no_flush: bool,
    }
}

qapi_struct! {
    /// An export, seen as a block device.
    pub struct BlockInfo "BlockInfo" {
        /// The export's id.
        "device" device: String,
        /// Always `unknown`, as QEMU says of devices without a kind.
        "type" kind: String,
        /// Whether a medium can be taken out. Always false.
        "removable" removable: bool,
        /// Whether the guest has locked the medium. Always false.
        "locked" locked: bool,
        /// The node it serves.
        "inserted" inserted: Option<BlockDeviceInfo>,
    }
}

/// What is to be told of a node.
pub(super) fn block_device(node: &Arc<Node>, flat: bool) -> BlockDeviceInfo {
    BlockDeviceInfo {
        file: filename(node),
        node_name: Some(node.name().to_owned()),
        ro: node.is_read_only(),
        drv: node.driver_name().to_owned(),
        backing_file: backing_file(node),
        backing_file_depth: if flat { 0 } else { depth(node) },
        active: true,
        encrypted: false,
        detect_zeroes: match node.detect_zeroes() {
            DetectZeroes::Off => BlockdevDetectZeroesOptions::Off,
            DetectZeroes::On => BlockdevDetectZeroesOptions::On,
            DetectZeroes::Unmap => BlockdevDetectZeroesOptions::Unmap,
        },
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        image: image(node, flat),
        cache: BlockdevCacheInfo { writeback: true, direct: node.cache_direct(), no_flush: node.cache_no_flush() },
        write_threshold: 0,
        dirty_bitmaps: bitmaps(node),
        x_change_id: node.points().tracking().last_point().map(|point| point.to_string()),
    }
}

/// What is to be told of an export as a block device.
pub(super) fn block(export: &ExportInfo) -> BlockInfo {
    BlockInfo {
        device: export.id.clone(),
        kind: "unknown".to_owned(),
        removable: false,
        locked: false,
        inserted: Some(block_device(&export.node, false)),
    }
}

fn bitmaps(node: &Node) -> Option<Vec<BlockDirtyInfo>> {
    let bitmaps: Vec<_> = node.points().tracking().list().into_iter().map(Into::into).collect();
    Some(bitmaps).filter(|bitmaps| !bitmaps.is_empty())
}

fn backing_file(node: &Node) -> Option<String> {
    match node.driver() {
        Driver::Qcow2(image) => image.backing().map(|backing| filename(&backing)),
        _ => None,
    }
}

fn depth(node: &Node) -> i64 {
    below(node).map_or(0, |below| 1 + depth(&below))
}

/// The file below a node, written as QEMU writes it for filters.
pub(super) fn filename(node: &Node) -> String {
    let child = || node.child().map(|child| filename(&child)).unwrap_or_default();
    match node.driver() {
        Driver::File(file) => file.path().to_owned(),
        Driver::Null(_) => "null-co://".to_owned(),
        Driver::Nbd(disk) => disk.options().uri(),
        Driver::Raw(_)
        | Driver::Passing(_)
        | Driver::CopyBeforeWrite(_)
        | Driver::SnapshotAccess(_)
        | Driver::Qcow2(_) => child(),
        Driver::BlkDebug(_) => format!("blkdebug::{}", child()),
        Driver::Throttle(_) => throttle::filename(node),
    }
}
