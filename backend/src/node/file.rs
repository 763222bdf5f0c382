//! Driver `file` and `host_device`: a regular file or block device.
//!
//! With O_DIRECT the storage takes whole aligned blocks only: what a guest sends otherwise goes through a buffer, and
//! a write of part of a block reads the block first, under a range lock. A failed flush poisons the file: what the
//! kernel dropped then cannot be known, so no later write or flush is acknowledged.

mod bounce;
mod extent;
mod flush;
mod mode;
mod open;
pub(crate) mod reopen;
#[cfg(any(test, feature = "sim"))]
mod sim;
mod zero;

pub use zero::Discards;

use super::{Kind, Map, Outcome, Request};
use crate::error::{GraphError, IoError};
use crate::io::lock::{Access, Lock};
use crate::io::{FileId, FileTable, Op, OpKind};
use crate::range_lock::RangeLock;
use crate::reactor::Handle;
use mode::CurrentMode;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the system has open.
struct Opened {
    /// `None` when it is closed.
    fd: Option<Arc<OwnedFd>>,
    /// Numbers of the file, through the page cache and past it, if it was used like that: once used they stay.
    ids: [Option<FileId>; 2],
}

/// An open image file.
pub struct File {
    table: Arc<FileTable>,
    opened: Mutex<Opened>,
    mode: CurrentMode,
    path: String,
    device: bool,
    block_device: bool,
    lock: Option<Lock>,
    ranges: RangeLock,
    growing: RangeLock,
    flushes: flush::Flushes,
    poisoned: AtomicBool,
    cannot_unmap: AtomicBool,
    cannot_zero: AtomicBool,
    discards: zero::Discards,
    known: extent::Known,
}

impl File {
    /// The file's number, as operations name it.
    pub fn id(&self) -> FileId {
        self.mode.get().id
    }

    /// The path as given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it was opened as `host_device`.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Whether O_DIRECT is in effect.
    pub fn direct(&self) -> bool {
        self.mode.get().direct
    }

    pub(crate) fn read_only(&self) -> bool {
        self.mode.get().read_only
    }

    pub(crate) fn alignment(&self) -> u32 {
        self.mode.get().alignment
    }

    /// What has come of discards.
    pub fn discards(&self) -> &Discards {
        &self.discards
    }

    /// The open file's descriptor.
    ///
    /// # Errors
    /// It has been closed.
    pub fn fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.opened().fd.clone().ok_or(io::ErrorKind::NotConnected.into())
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the file, though its node may be kept: by somebody who has looked it up.
    pub(crate) fn close(&self) {
        self.lock.iter().for_each(Lock::close);
        let mut opened = self.opened();
        opened.fd = None;
        opened.ids.iter().flatten().for_each(|id| self.table.remove(*id));
        opened.ids = [None; 2];
    }

    pub(crate) fn lock(&self, access: Access) -> Result<(), GraphError> {
        self.lock.as_ref().map_or(Ok(()), |lock| lock.acquire(access))
    }

    pub(crate) fn unlock(&self, access: Access) {
        self.lock.iter().for_each(|lock| lock.release(access));
    }

    #[inline]
    pub(super) fn map(&self, request: &Request, offset: u64) -> Map {
        let mode = self.mode.get();
        let kind = match request.kind {
            Kind::Read => OpKind::Read,
            Kind::Write if self.poisoned.load(Ordering::Relaxed) => return Map::Ended(Err(IoError::Io)),
            Kind::Write if !mode.reads_before_writing() && (mode.direct || !request.fua) => {
                OpKind::Write { stable: request.fua }
            }
            _ => return Map::Task,
        };
        if mode.is_aligned(request, offset) { Map::File { file: mode.id, offset, kind } } else { Map::Task }
    }

    pub(super) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        if request.kind != Kind::Read && self.poisoned.load(Ordering::Relaxed) {
            return (request.memory, Err(IoError::Io));
        }
        match request.kind {
            Kind::Read => self.read(io, request).await,
            Kind::Write if request.fua => self.write_stably(io, request).await,
            Kind::Write => self.write(io, request).await.0,
            Kind::Flush => (request.memory, self.flush(io).await),
            Kind::Zero { unmap } => {
                let result = self.zero(io, request.offset, request.len, unmap).await;
                (request.memory, self.stable_if(io, request.fua, result).await)
            }
            Kind::Discard => {
                let result = self.give_back(io, request.offset, request.len).await;
                (request.memory, self.stable_if(io, request.fua, result).await)
            }
        }
    }

    /// Makes the file at least `end` bytes long, if it is not; `known` is its length so far, and kept up.
    pub(super) async fn grow(&self, io: &Handle, end: u64, known: &AtomicU64) -> Result<(), IoError> {
        let _turn = self.growing.lock(0..1).await;
        let length = known.load(Ordering::Acquire);
        if length >= end {
            return Ok(());
        }
        if self.block_device {
            return Err(IoError::NoSpace);
        }
        io.run(Op::bare(OpKind::Grow, self.id(), length, end - length)).await.1?;
        known.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// Makes a regular file end at `end`, if it does not before; `known` as for [`File::grow`].
    pub(super) async fn cut(&self, io: &Handle, end: u64, known: &AtomicU64) -> Result<(), IoError> {
        let _turn = self.growing.lock(0..1).await;
        if self.block_device || known.load(Ordering::Acquire) <= end {
            return Ok(());
        }
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(IoError::Io);
        }
        io.run(Op::bare(OpKind::Cut, self.id(), end, 0)).await.1?;
        self.known.forget();
        known.store(end, Ordering::Release);
        Ok(())
    }

    async fn read(&self, io: &Handle, request: Request) -> Outcome {
        let mode = self.mode.get();
        if !mode.is_aligned(&request, request.offset) {
            return self.read_bounced(io, mode, request).await;
        }
        let (op, result) = io.run(Op::read(mode.id, request.offset, request.memory)).await;
        (op.memory, result)
    }

    /// Returns also whether it is stable.
    async fn write(&self, io: &Handle, request: Request) -> (Outcome, bool) {
        let mode = self.mode.get();
        let _range = self.hold_blocks(mode, request.offset, request.len).await;
        let stable = request.fua && mode.direct;
        if !mode.is_aligned(&request, request.offset) {
            return (self.write_bounced(io, mode, request).await, stable);
        }
        let (op, result) = io.run(Op::write(mode.id, request.offset, request.memory, stable)).await;
        ((op.memory, result), stable)
    }

    /// A stable write of cached data would, if it fails, use up the one report the kernel makes of data it has lost,
    /// whoever's it was; a flush of ours poisons the file then.
    async fn write_stably(&self, io: &Handle, request: Request) -> Outcome {
        let ((memory, result), stable) = self.write(io, request).await;
        (memory, self.stable_if(io, !stable, result).await)
    }

    async fn stable_if(&self, io: &Handle, fua: bool, result: Result<(), IoError>) -> Result<(), IoError> {
        match (fua, result) {
            (true, Ok(())) => self.flush(io).await,
            (_, result) => result,
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.close();
    }
}
