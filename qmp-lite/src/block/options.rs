//! The options of block nodes: the arguments of `blockdev-add`, made into what the graph opens.
//!
//! Knows every driver's members and QEMU's defaults; opens nothing.

use std::sync::Arc;

use tidemark_backend::node::NodeOptions;
use tidemark_backend::node::options::{
    ChildRef, DetectZeroes, Discard, DriverOptions, FileOptions, Locking, NullOptions, RawOptions,
};

use super::blkdebug::BlockdevOptionsBlkdebug;
use super::copy_before_write::BlockdevOptionsCbw;
use super::copy_on_read::BlockdevOptionsCor;
use super::nbd::BlockdevOptionsNbd;
use super::qcow2::BlockdevOptionsQcow2;
use super::throttle::BlockdevOptionsThrottle;
use crate::error::QmpError;
use crate::schema::{qapi_alternate, qapi_enum, qapi_struct, qapi_union};

/// The size of a `null-co` node of which nothing is said: 1 GiB.
const NULL_SIZE: i64 = 1 << 30;

qapi_union! {
    /// A block node: what is the same for all drivers, and the members of its driver.
    pub struct BlockdevOptions "BlockdevOptions" {
        /// The driver.
        "driver" driver: BlockdevDriver,
        /// The name of the node. Required, except for a node defined inside another one.
        "node-name" node_name: Option<String>,
        /// Whether discards reach the storage; ignore if absent.
        "discard" discard: Option<BlockdevDiscardOptions>,
        /// How the page cache and flushes are dealt with.
        "cache" cache: Option<BlockdevCacheOptions>,
        /// Whether the node is active. Only true is supported.
        "active" active: Option<bool>,
        /// Refuse writes. Off if absent.
        "read-only" read_only: Option<bool>,
        /// Open read-only where the storage allows no writing. Off if absent.
        "auto-read-only" auto_read_only: Option<bool>,
        /// Take no image lock and mind nobody else's. Off if absent.
        "force-share" force_share: Option<bool>,
        /// Whether writes of zeroes become write-zeroes requests; off if absent.
        "detect-zeroes" detect_zeroes: Option<BlockdevDetectZeroesOptions>,
    }
    /// The members of the driver.
    pub enum BlockdevDriverOptions by "driver" driver: BlockdevDriver {
        /// `blkdebug`
        Blkdebug(BlockdevOptionsBlkdebug),
        /// `copy-before-write`
        CopyBeforeWrite(BlockdevOptionsCbw),
        /// `copy-on-read`
        CopyOnRead(BlockdevOptionsCor),
        /// `file`
        File(BlockdevOptionsFile),
        /// `host_device`
        HostDevice(BlockdevOptionsFile),
        /// `nbd`
        Nbd(BlockdevOptionsNbd),
        /// `null-co`
        NullCo(BlockdevOptionsNull),
        /// `qcow2`
        Qcow2(BlockdevOptionsQcow2),
        /// `raw`
        Raw(BlockdevOptionsRaw),
        /// `snapshot-access`
        SnapshotAccess(BlockdevOptionsGenericFormat),
        /// `throttle`
        Throttle(BlockdevOptionsThrottle),
    }
}

qapi_enum! {
    /// The block drivers.
    pub enum BlockdevDriver "BlockdevDriver" {
        /// Fails or delays requests by rule.
        Blkdebug = "blkdebug",
        /// Keeps what its child had when it was opened, while writes go on.
        CopyBeforeWrite = "copy-before-write",
        /// Copies what is read through it into its child.
        CopyOnRead = "copy-on-read",
        /// A regular file or a block device.
        File = "file",
        /// A block device.
        HostDevice = "host_device",
        /// A disk that an NBD server has.
        Nbd = "nbd",
        /// No storage at all, for measurements.
        NullCo = "null-co",
        /// QEMU's image format.
        Qcow2 = "qcow2",
        /// A window into another node.
        Raw = "raw",
        /// Reads what a `copy-before-write` node keeps.
        SnapshotAccess = "snapshot-access",
        /// Keeps its child within limits.
        Throttle = "throttle",
    }
    unsupported "Block driver" [
        "blklogwrites", "blkreplay", "blkverify", "bochs", "cloop", "compress",
        "dmg", "ftp", "ftps", "gluster",
        "host_cdrom", "http", "https", "iscsi", "luks", "nfs", "null-aio", "nvme",
        "parallels", "preallocate", "qcow", "qed", "quorum", "rbd", "replication", "ssh",
        "vdi", "vhdx", "vmdk", "vpc", "vvfat",
    ]
}

qapi_enum! {
    /// What becomes of discards.
    pub enum BlockdevDiscardOptions "BlockdevDiscardOptions" {
        /// They succeed and do nothing.
        Ignore = "ignore",
        /// They reach the storage.
        Unmap = "unmap",
    }
}

qapi_enum! {
    /// What becomes of writes of zeroes.
    pub enum BlockdevDetectZeroesOptions "BlockdevDetectZeroesOptions" {
        /// They are written.
        Off = "off",
        /// They become write-zeroes that keep their space.
        On = "on",
        /// They become write-zeroes that may free their space; requires discard=unmap.
        Unmap = "unmap",
    }
}

qapi_struct! {
    /// How caches below the guest's disk are used. Both are inherited by a node defined inside this one.
    pub struct BlockdevCacheOptions "BlockdevCacheOptions" {
        /// Bypass the page cache (O_DIRECT). Off if absent.
        "direct" direct: Option<bool>,
        /// Acknowledge flushes without doing them. Off if absent.
        "no-flush" no_flush: Option<bool>,
    }
}

qapi_struct! {
    /// Options of drivers `file` and `host_device`.
    pub struct BlockdevOptionsFile "BlockdevOptionsFile" {
        /// The path.
        "filename" filename: String,
        /// Whether to take the image locks that QEMU's programs take; auto if absent.
        "locking" locking: Option<OnOffAuto>,
        /// Accepted for compatibility: I/O is always done with io_uring.
        "aio" aio: Option<BlockdevAioOptions>,
    }
}

qapi_enum! {
    /// QEMU's ways of doing I/O on files. Each of them means io_uring here.
    pub enum BlockdevAioOptions "BlockdevAioOptions" {
        /// QEMU's worker threads.
        Threads = "threads",
        /// Linux AIO.
        Native = "native",
        /// io_uring.
        IoUring = "io_uring",
    }
}

qapi_enum! {
    /// A switch with a default that depends on circumstances.
    pub enum OnOffAuto "OnOffAuto" {
        /// On where it is possible.
        Auto = "auto",
        /// On, or an error.
        On = "on",
        /// Off.
        Off = "off",
    }
}

qapi_struct! {
    /// Options of driver `null-co`.
    pub struct BlockdevOptionsNull "BlockdevOptionsNull" {
        /// The size in bytes; 1 GiB if absent.
        "size" size: Option<i64>,
        /// How long each request takes, in nanoseconds; 0 if absent.
        "latency-ns" latency_ns: Option<i64>,
        /// Fill what is read with zeroes instead of leaving it alone. Off if absent.
        "read-zeroes" read_zeroes: Option<bool>,
    }
}

qapi_struct! {
    /// Options of driver `raw`.
    pub struct BlockdevOptionsRaw "BlockdevOptionsRaw" {
        /// The node to look into.
        "file" file: BlockdevRef,
        /// Where the window begins, in bytes; 0 if absent.
        "offset" offset: Option<i64>,
        /// How long the window is, in bytes; up to the end if absent.
        "size" size: Option<i64>,
        /// Refuse writes that would put the header of an image format into the first sector. Off if absent.
        "x-guard-format" x_guard_format: Option<bool>,
    }
}

qapi_struct! {
    /// Options of drivers that have a child and nothing else.
    pub struct BlockdevOptionsGenericFormat "BlockdevOptionsGenericFormat" {
        /// The child.
        "file" file: BlockdevRef,
    }
}

qapi_alternate! {
    /// A node: options to open one with, or the name of one that is there.
    pub enum BlockdevRef "BlockdevRef" {
        /// A node that is opened and closed together with the one it is defined in.
        "definition" Definition(Box<BlockdevOptions>): Object,
        /// A node's name.
        "reference" Reference(String): String,
    }
}

impl TryFrom<BlockdevOptions> for NodeOptions {
    type Error = QmpError;

    fn try_from(options: BlockdevOptions) -> Result<Self, QmpError> {
        if options.active == Some(false) {
            return Err(QmpError::generic("Inactive nodes are not supported"));
        }
        let unmap = options.discard == Some(BlockdevDiscardOptions::Unmap);
        let detect_zeroes = match options.detect_zeroes {
            None | Some(BlockdevDetectZeroesOptions::Off) => DetectZeroes::Off,
            Some(BlockdevDetectZeroesOptions::On) => DetectZeroes::On,
            Some(BlockdevDetectZeroesOptions::Unmap) if unmap => DetectZeroes::Unmap,
            Some(BlockdevDetectZeroesOptions::Unmap) => {
                return Err(QmpError::generic(
                    "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
                ));
            }
        };
        Ok(Self {
            node_name: options.node_name,
            read_only: options.read_only.into(),
            auto_read_only: options.auto_read_only.into(),
            force_share: options.force_share.unwrap_or(false),
            discard: if unmap { Discard::Unmap } else { Discard::Ignore },
            detect_zeroes,
            cache_direct: options.cache.as_ref().and_then(|cache| cache.direct).into(),
            cache_no_flush: options.cache.as_ref().and_then(|cache| cache.no_flush).into(),
            driver: options.branch.try_into()?,
        })
    }
}

impl TryFrom<BlockdevDriverOptions> for DriverOptions {
    type Error = QmpError;

    fn try_from(options: BlockdevDriverOptions) -> Result<Self, QmpError> {
        Ok(match options {
            BlockdevDriverOptions::File(file) => Self::File(file_options(file, false)),
            BlockdevDriverOptions::HostDevice(file) => Self::File(file_options(file, true)),
            BlockdevDriverOptions::Raw(raw) => Self::Raw(raw.try_into()?),
            BlockdevDriverOptions::Nbd(nbd) => Self::Nbd(Arc::new(nbd.try_into()?)),
            BlockdevDriverOptions::NullCo(null) => Self::Null(null.try_into()?),
            BlockdevDriverOptions::Blkdebug(debug) => Self::BlkDebug(debug.try_into()?),
            BlockdevDriverOptions::CopyBeforeWrite(copy) => Self::CopyBeforeWrite(copy.try_into()?),
            BlockdevDriverOptions::CopyOnRead(filter) => Self::CopyOnRead(filter.try_into()?),
            BlockdevDriverOptions::Qcow2(qcow2) => Self::Qcow2(Box::new(qcow2.try_into()?)),
            BlockdevDriverOptions::Throttle(throttle) => Self::Throttle(throttle.try_into()?),
            BlockdevDriverOptions::SnapshotAccess(access) => Self::SnapshotAccess(access.file.try_into()?),
        })
    }
}

/// `aio` has no say: whatever it asks for, io_uring is at least as good.
fn file_options(file: BlockdevOptionsFile, device: bool) -> FileOptions {
    let locking = match file.locking.unwrap_or(OnOffAuto::Auto) {
        OnOffAuto::Auto => Locking::Auto,
        OnOffAuto::On => Locking::On,
        OnOffAuto::Off => Locking::Off,
    };
    FileOptions { filename: file.filename.into(), locking, device }
}

impl TryFrom<BlockdevOptionsRaw> for RawOptions {
    type Error = QmpError;

    fn try_from(raw: BlockdevOptionsRaw) -> Result<Self, QmpError> {
        Ok(Self {
            file: raw.file.try_into()?,
            offset: unsigned("offset", raw.offset.unwrap_or(0))?,
            size: raw.size.map(|size| unsigned("size", size)).transpose()?,
            guard_format: raw.x_guard_format.unwrap_or(false),
        })
    }
}

impl TryFrom<BlockdevOptionsNull> for NullOptions {
    type Error = QmpError;

    fn try_from(null: BlockdevOptionsNull) -> Result<Self, QmpError> {
        let latency_ns = u64::try_from(null.latency_ns.unwrap_or(0));
        Ok(Self {
            size: unsigned("size", null.size.unwrap_or(NULL_SIZE))?,
            read_zeroes: null.read_zeroes.unwrap_or(false),
            latency_ns: latency_ns.map_err(|_| QmpError::generic("latency-ns is invalid"))?,
        })
    }
}

impl TryFrom<BlockdevRef> for ChildRef {
    type Error = QmpError;

    fn try_from(reference: BlockdevRef) -> Result<Self, QmpError> {
        Ok(match reference {
            BlockdevRef::Reference(name) => Self::Name(name),
            BlockdevRef::Definition(options) => Self::Inline(Box::new((*options).try_into()?)),
        })
    }
}

pub(super) fn unsigned(name: &str, value: i64) -> Result<u64, QmpError> {
    u64::try_from(value)
        .map_err(|_| QmpError::generic(format!("Value '{value}' is out of range for parameter '{name}'")))
}
