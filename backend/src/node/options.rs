//! What an operator may say of a node: the typed form of `blockdev-add`'s arguments.
//!
//! Knows no JSON and opens nothing; names and defaults are those of QEMU's `BlockdevOptions`.

use std::path::PathBuf;
use std::sync::Arc;

pub use super::nbd::{NbdClientOptions, NbdServer};
pub use super::qcow2::changes::CrashSafe;
pub use super::qcow2::options::{Backing, Qcow2Options};
pub use super::setting::Setting;
pub use super::throttle::ThrottleGroup;

/// Options of one node and, through [`ChildRef::Inline`], of the nodes below it, which inherit its settings.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// `node-name`; an inline child without one gets a generated name.
    pub node_name: Option<String>,
    /// `read-only`: writes are refused before they reach the driver.
    pub read_only: Setting,
    /// `auto-read-only`: open read-only when the file does not allow writing.
    pub auto_read_only: Setting,
    /// `force-share`: take no image lock and mind nobody else's (read-only nodes only).
    pub force_share: bool,
    /// `discard`: whether a guest's discard reaches the storage.
    pub discard: Discard,
    /// `detect-zeroes`: whether writes of zeroes become zero requests.
    pub detect_zeroes: DetectZeroes,
    /// `cache.direct`: bypass the page cache (`O_DIRECT`).
    pub cache_direct: Setting,
    /// `cache.no-flush`: guest flushes are acknowledged without reaching the storage.
    pub cache_no_flush: Setting,
    /// What stands behind the node.
    pub driver: DriverOptions,
}

impl NodeOptions {
    /// Options with QEMU's defaults for a driver and no name.
    pub fn new(driver: DriverOptions) -> Self {
        Self {
            node_name: None,
            read_only: Setting::Unsaid,
            auto_read_only: Setting::Unsaid,
            force_share: false,
            discard: Discard::Ignore,
            detect_zeroes: DetectZeroes::Off,
            cache_direct: Setting::Unsaid,
            cache_no_flush: Setting::Unsaid,
            driver,
        }
    }

    /// The same with each setting put together of its own and the other's.
    #[must_use]
    pub fn with_settings(self, other: &Self, both: impl Fn(Setting, Setting) -> Setting) -> Self {
        Self {
            read_only: both(self.read_only, other.read_only),
            auto_read_only: both(self.auto_read_only, other.auto_read_only),
            cache_direct: both(self.cache_direct, other.cache_direct),
            cache_no_flush: both(self.cache_no_flush, other.cache_no_flush),
            ..self
        }
    }
}

impl DriverOptions {
    /// What is said of the node below, if it has one for `file` (a fault injector's `image`).
    pub fn file(&self) -> Option<&ChildRef> {
        match self {
            Self::Raw(raw) => Some(&raw.file),
            Self::BlkDebug(debug) => Some(&debug.image),
            Self::Throttle(throttle) => Some(&throttle.file),
            Self::CopyOnRead(filter) => Some(&filter.file),
            Self::Qcow2(qcow2) => Some(&qcow2.file),
            _ => None,
        }
    }

    /// As [`DriverOptions::file`], to say something else of it.
    pub fn file_mut(&mut self) -> Option<&mut ChildRef> {
        match self {
            Self::Raw(raw) => Some(&mut raw.file),
            Self::BlkDebug(debug) => Some(&mut debug.image),
            Self::Throttle(throttle) => Some(&mut throttle.file),
            Self::CopyOnRead(filter) => Some(&mut filter.file),
            Self::Qcow2(qcow2) => Some(&mut qcow2.file),
            _ => None,
        }
    }
}

/// The drivers a node can have, each with its own members.
#[derive(Clone, Debug)]
pub enum DriverOptions {
    /// `file` and `host_device`: a regular file or a block device.
    File(FileOptions),
    /// `raw`: a window into its child.
    Raw(RawOptions),
    /// `null-co`: no storage at all, for measurements.
    Null(NullOptions),
    /// `nbd`: a disk that a server has.
    Nbd(Arc<NbdClientOptions>),
    /// `blkdebug`: a filter that fails or delays requests by rule.
    BlkDebug(BlkDebugOptions),
    /// `throttle`: a filter that keeps to limits.
    Throttle(ThrottleOptions),
    /// `copy-on-read`: a filter; what is read through it becomes the image's own.
    CopyOnRead(CopyOnReadOptions),
    /// `copy-before-write`: a filter that keeps a point in time.
    CopyBeforeWrite(CopyBeforeWriteOptions),
    /// `snapshot-access`: reads what such a filter keeps; its child.
    SnapshotAccess(ChildRef),
    /// `qcow2`: an image that maps clusters.
    Qcow2(Box<Qcow2Options>),
}

/// Members of driver `throttle`.
#[derive(Clone, Debug)]
pub struct ThrottleOptions {
    /// `file`: the child.
    pub file: ChildRef,
    /// `throttle-group`: the name of the group.
    pub group_name: String,
    /// The group, once it is looked up.
    pub group: Option<Arc<ThrottleGroup>>,
}

/// Members of driver `copy-on-read`.
#[derive(Clone, Debug)]
pub struct CopyOnReadOptions {
    /// `file`: the child.
    pub file: ChildRef,
    /// `bottom`: the lowest image that is copied from; all are if there is none.
    pub bottom: Option<String>,
}

/// Members of driver `copy-before-write`.
#[derive(Clone, Debug)]
pub struct CopyBeforeWriteOptions {
    /// `file`: the node whose content is kept.
    pub file: ChildRef,
    /// `target`: where it is kept.
    pub target: ChildRef,
    /// `bitmap`: only what it marks is kept; the node that has it, and its name.
    pub bitmap: Option<(String, String)>,
    /// `on-cbw-error`, `cbw-timeout`, `min-cluster-size`.
    pub copying: super::copy_before_write::CbwOptions,
}

/// Members of driver `file`.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// `filename`.
    pub filename: PathBuf,
    /// `locking`: whether QEMU's byte-range locks are taken.
    pub locking: Locking,
    /// True for `host_device`: anything but a block or character device is refused.
    pub device: bool,
}

/// Members of driver `raw`.
#[derive(Clone, Debug)]
pub struct RawOptions {
    /// `file`: the child.
    pub file: ChildRef,
    /// `offset` in bytes into the child.
    pub offset: u64,
    /// `size` in bytes; absent means up to the child's end.
    pub size: Option<u64>,
    /// For raw disks whose format nobody named: a write that would put an image format's magic
    /// into sector 0 is refused.
    pub guard_format: bool,
}

/// Members of driver `null-co`.
#[derive(Clone, Debug)]
pub struct NullOptions {
    /// `size` in bytes.
    pub size: u64,
    /// `read-zeroes`: fill read buffers with zeroes instead of leaving them alone.
    pub read_zeroes: bool,
    /// `latency-ns`: every request takes this long.
    pub latency_ns: u64,
}

/// Members of driver `blkdebug`.
#[derive(Clone, Debug)]
pub struct BlkDebugOptions {
    /// `image`: the child.
    pub image: ChildRef,
    /// `align`: bytes of a block, a power of two; 0 for the child's.
    pub align: u64,
    /// `config`: a file with more rules, in QEMU's format.
    pub config: Option<PathBuf>,
    /// `inject-error` rules.
    pub inject_error: Vec<InjectError>,
    /// `set-state` rules.
    pub set_state: Vec<SetState>,
    /// `x-delay-ns`: how long each kind of request waits before it is passed on.
    pub delay: Delays,
}

/// One `inject-error` rule.
#[derive(Clone, Debug)]
pub struct InjectError {
    /// `event` that arms the rule, by QEMU's name (`none`: armed from the start).
    pub event: String,
    /// `state` the node must be in; absent means any.
    pub state: Option<i64>,
    /// `iotype`; absent means read, write, write-zeroes, discard and flush.
    pub iotype: Option<IoType>,
    /// `errno` as Linux numbers it; default 5 (EIO).
    pub errno: i32,
    /// `sector` (512 bytes) a request must touch; absent means any request.
    pub sector: Option<u64>,
    /// `once`: the rule is used up by its first hit.
    pub once: bool,
    /// `immediately`: fail without going through the event loop; no difference a guest can see.
    pub immediately: bool,
}

/// One `set-state` rule.
#[derive(Clone, Debug)]
pub struct SetState {
    /// `event` that changes the state.
    pub event: String,
    /// `state` the rule applies in; absent means any.
    pub state: Option<i64>,
    /// `new_state`.
    pub new_state: i64,
}

/// The kinds of request `blkdebug` tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoType {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Write-zeroes.
    WriteZeroes,
    /// Discards.
    Discard,
    /// Flushes.
    Flush,
    /// Block status queries.
    BlockStatus,
}

/// `blkdebug`'s delays in nanoseconds; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    /// Before a read.
    pub read: u64,
    /// Before a write.
    pub write: u64,
    /// Before write-zeroes.
    pub write_zeroes: u64,
    /// Before a discard.
    pub discard: u64,
    /// Before a flush.
    pub flush: u64,
}

/// A child: an existing node by name, or options to open one.
#[derive(Clone, Debug)]
pub enum ChildRef {
    /// The node with this name.
    Name(String),
    /// A node opened together with its parent and closed with it.
    Inline(Box<NodeOptions>),
}

/// `discard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// Discards succeed and do nothing.
    Ignore,
    /// Discards reach the storage.
    Unmap,
}

/// `detect-zeroes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectZeroes {
    /// Writes are written.
    Off,
    /// Zero writes become write-zeroes that keep their space.
    On,
    /// Zero writes become write-zeroes that may free space (needs `discard=unmap`).
    Unmap,
}

/// `locking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// Lock where the file system can (the default).
    Auto,
    /// Lock or fail.
    On,
    /// Never lock.
    Off,
}
