//! A node: the one checked door in front of a driver.
//!
//! Range, permission, zero detection and ignored discards are decided here, once; drivers neither repeat nor bypass it.
//! A request is either *mapped* (one operation on one file, done straight from the queue loop) or *handled* (a task).
//! Knows no exports and no names of other nodes.

mod above;
mod blkdebug;
pub mod changes;
mod claims;
pub mod copy_before_write;
mod door;
pub mod file;
pub mod gate;
mod length;
pub mod link;
mod map;
pub mod mirroring;
pub mod nbd;
mod null;
pub mod options;
mod passing;
mod permissions;
pub mod points;
mod populate;
pub mod qcow2;
mod raw;
mod recording;
mod root;
pub mod setting;
mod settings;
mod status;
pub mod throttle;
mod users;
mod view;

pub use options::NodeOptions;

use crate::error::IoError;
use crate::io::Memory;
use crate::reactor::Handle;
use copy_before_write::{Filter, SnapshotAccess};
use options::{DetectZeroes, Discard};
use points::Points;
use settings::Settings;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use blkdebug::{BlkDebug, EVENTS as BLKDEBUG_EVENTS};
pub use claims::Hold;
pub(crate) use claims::Lead;
pub use door::Door;
pub use file::File;
pub use map::Map;
pub use nbd::Nbd;
pub use null::Null;
pub use passing::Passing;
pub(crate) use permissions::Stakes;
pub use permissions::{Permissions, Stake, Staked};
pub use raw::Raw;
pub use root::{Root, Section, Stamp, Visit};
pub use status::{Extent, Looking, Status};
pub use throttle::{Released, Throttle, ThrottleGroup};
pub(crate) use users::Kept;

/// What a request asks for. Which kind it is stands in a byte of its own: it is looked at several times on the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Fill the memory.
    Read,
    /// Write the memory.
    Write,
    /// The range reads as zeroes afterwards; with `unmap` its space may be given back.
    Zero {
        /// The space may be given back.
        unmap: bool,
    },
    /// The range's content is no longer needed.
    Discard,
    /// Everything completed so far is made stable.
    Flush,
}

impl Kind {
    /// Whether the node's content may change.
    pub fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Zero { .. } | Self::Discard)
    }

    /// Whether it has memory to read into or write from.
    pub fn moves(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

/// One request to a node.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub kind: Kind,
    /// Stable on the medium before completion (writes, zeroes, discards).
    pub fua: bool,
    /// Bytes into the node.
    pub offset: u64,
    /// Bytes; the length of `memory` for reads and writes, 0 for a flush.
    pub len: u64,
    /// To read into or write from; empty for other kinds.
    pub memory: Memory,
}

impl Request {
    /// Makes everything completed so far stable.
    pub fn flush() -> Self {
        Self { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: Memory::empty() }
    }

    /// Whether something has to be stable before it completes.
    #[inline]
    pub fn is_stable(&self) -> bool {
        self.fua || self.kind == Kind::Flush
    }
}

/// A finished request: its memory back, and how it ended.
pub type Outcome = (Memory, Result<(), IoError>);

/// A request under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// What stands behind the door.
pub enum Driver {
    /// A file or block device.
    File(File),
    /// A window into another node.
    Raw(Raw),
    /// Nothing.
    Null(Null),
    /// Another node, with faults and delays.
    BlkDebug(BlkDebug),
    /// Another node, within limits.
    Throttle(Throttle),
    /// A filter that passes on what comes.
    Passing(Passing),
    /// A filter that keeps a point in time.
    CopyBeforeWrite(Filter),
    /// What a copy-before-write filter keeps.
    SnapshotAccess(SnapshotAccess),
    /// A server's disk.
    Nbd(Box<Nbd>),
    /// An image that maps clusters.
    Qcow2(Box<qcow2::image::Image>),
}

/// A named block node.
pub struct Node {
    name: String,
    /// Created by `blockdev-add` itself, not as part of a parent.
    root: bool,
    settings: Settings,
    /// As opened, or reopened last.
    options: Mutex<Arc<NodeOptions>>,
    length: AtomicU64,
    users: AtomicUsize,
    /// Whether it was closed.
    abandoned: AtomicBool,
    /// Why nothing else may be done with the node as a whole.
    busy: Mutex<Option<&'static str>>,
    claims: Mutex<claims::Claims>,
    /// Who has a stake in it or in another node of its graph.
    stakes: Arc<Stakes>,
    points: Points,
    driver: Driver,
}

impl Node {
    pub(crate) fn new(name: String, root: bool, options: &NodeOptions, length: u64, driver: Driver) -> Self {
        let below = match &driver {
            Driver::File(file) => file.read_only(),
            Driver::Qcow2(image) => image.is_read_only(),
            Driver::Nbd(disk) => disk.read_only(),
            _ => false,
        };
        let read_only = options.read_only.is_on() || below;
        let points = Points::default();
        if let Driver::CopyBeforeWrite(filter) = &driver
            && filter.is_own()
        {
            points.add_copy(filter.copy().clone());
            points.refresh();
        }
        if let Driver::Qcow2(image) = &driver {
            points.tracking().adopt(image.take_loaded_bitmaps(), read_only);
            points.keep_changes(image);
            points.refresh();
        }
        Self {
            name,
            root,
            settings: Settings::new(options, read_only),
            options: Mutex::new(Arc::new(options.clone())),
            length: AtomicU64::new(length),
            users: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            busy: Mutex::default(),
            claims: Mutex::default(),
            stakes: Arc::default(),
            points,
            driver,
        }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `blockdev-add` created it, so that `blockdev-del` may remove it.
    pub fn is_root(&self) -> bool {
        self.root
    }

    /// Whether it refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.settings.is_read_only()
    }

    /// What it was opened with, or reopened last.
    pub fn options(&self) -> Arc<NodeOptions> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what may change of an open node; inside [`points::hold`].
    pub(crate) fn change_settings(&self, options: &NodeOptions, read_only: bool) {
        self.settings.change(options, read_only);
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(options.clone());
    }

    /// Notes other options than those that it was opened with; inside [`points::hold`].
    pub(crate) fn change_options(&self, change: impl FnOnce(&mut NodeOptions)) {
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut options));
    }

    /// Refuses writes from now on, or takes them; nobody may be writing.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.settings.set_read_only(read_only);
    }

    /// `discard` in effect.
    pub fn discard(&self) -> Discard {
        self.settings.discard()
    }

    /// `detect-zeroes` in effect.
    pub fn detect_zeroes(&self) -> DetectZeroes {
        self.settings.detect_zeroes()
    }

    /// `cache.direct` in effect.
    pub fn cache_direct(&self) -> bool {
        self.settings.direct()
    }

    /// `cache.no-flush` in effect.
    pub fn cache_no_flush(&self) -> bool {
        self.settings.no_flush()
    }

    /// Length in bytes, a multiple of 512.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    pub(crate) fn set_length(&self, length: u64) {
        self.length.store(length, Ordering::Release);
    }

    /// What stands behind it.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The driver's QEMU name.
    pub fn driver_name(&self) -> &'static str {
        match &self.driver {
            Driver::File(file) if file.is_device() => "host_device",
            Driver::File(_) => "file",
            Driver::Raw(_) => "raw",
            Driver::Null(_) => "null-co",
            Driver::Nbd(_) => "nbd",
            Driver::BlkDebug(_) => "blkdebug",
            Driver::Throttle(_) => "throttle",
            Driver::Passing(filter) => filter.name(),
            Driver::CopyBeforeWrite(_) => "copy-before-write",
            Driver::SnapshotAccess(_) => "snapshot-access",
            Driver::Qcow2(_) => "qcow2",
        }
    }

    /// The node below, if the driver has one.
    pub fn child(&self) -> Option<Arc<Node>> {
        match &self.driver {
            Driver::Raw(raw) => Some(raw.child()),
            Driver::BlkDebug(filter) => Some(filter.child()),
            Driver::Throttle(filter) => Some(filter.child()),
            Driver::Passing(filter) => Some(filter.child()),
            Driver::CopyBeforeWrite(filter) => Some(filter.child().clone()),
            Driver::SnapshotAccess(reader) => Some(reader.child().clone()),
            Driver::Qcow2(image) => Some(image.file()),
            Driver::File(_) | Driver::Null(_) | Driver::Nbd(_) => None,
        }
    }

    /// What hangs on its requests.
    pub fn points(&self) -> &Points {
        &self.points
    }

    /// Whether a flush ends here. An image writes its tables all the same: what has no promise to outlive the machine
    /// is not to be lost with the process.
    fn ends_flushes(&self) -> bool {
        self.cache_no_flush() && !matches!(&self.driver, Driver::Qcow2(_))
    }

    fn check(&self, request: &Request) -> Result<(), IoError> {
        self.check_at(request, request.offset)
    }

    /// Whether a request could be done here at `offset`, whatever its own is.
    #[inline]
    fn check_at(&self, request: &Request, offset: u64) -> Result<(), IoError> {
        if request.kind.changes() && self.is_read_only() {
            return Err(IoError::Permission);
        }
        let end = offset.checked_add(request.len).ok_or(IoError::Invalid)?;
        // A flush has no range.
        let inside = request.kind == Kind::Flush || end <= self.length();
        if inside { Ok(()) } else { Err(IoError::Invalid) }
    }

    /// Runs a request to its end.
    pub fn handle<'a>(&'a self, io: &'a Handle, request: Request) -> Running<'a> {
        Box::pin(async move {
            if let Err(error) = self.check(&request) {
                return (request.memory, Err(error));
            }
            match request.kind {
                Kind::Write if self.detect_zeroes() != DetectZeroes::Off && request.memory.is_zero() => {
                    self.zero_instead(io, request).await
                }
                Kind::Discard if self.discard() == Discard::Ignore => (request.memory, Ok(())),
                Kind::Zero { unmap: true } if self.discard() == Discard::Ignore => {
                    self.drive(io, Request { kind: Kind::Zero { unmap: false }, ..request }).await
                }
                Kind::Flush if self.ends_flushes() => (request.memory, Ok(())),
                _ => self.drive(io, request).await,
            }
        })
    }

    async fn zero_instead(&self, io: &Handle, request: Request) -> Outcome {
        let unmap = self.detect_zeroes() == DetectZeroes::Unmap && self.discard() == Discard::Unmap;
        let zero = Request { kind: Kind::Zero { unmap }, memory: Memory::empty(), ..request };
        let (_, result) = self.drive(io, zero).await;
        (request.memory, result)
    }

    async fn drive(&self, io: &Handle, request: Request) -> Outcome {
        match &self.driver {
            Driver::File(file) => file.handle(io, request).await,
            Driver::Raw(raw) => raw.handle(io, request).await,
            Driver::Null(null) => null.handle(io, request).await,
            Driver::Nbd(disk) => disk.handle(request).await,
            Driver::BlkDebug(filter) => filter.handle(io, request).await,
            Driver::Throttle(filter) => filter.handle(io, request).await,
            Driver::Passing(filter) => filter.handle(io, request).await,
            Driver::CopyBeforeWrite(filter) => filter.handle(io, request).await,
            Driver::SnapshotAccess(reader) => reader.handle(io, request).await,
            Driver::Qcow2(image) => image.handle(io, request, &self.points).await,
        }
    }
}

#[cfg(test)]
mod tests;
