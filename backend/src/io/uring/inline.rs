//! Reads and writes made at once: the copy costs less than handing it to a kernel worker.
//!
//! Those of files in memory, and writes into the page cache where the file system has no asynchronous path for them. The
//! latter may wait (for dirty pages to be written back, for a journal's commit): then the ring has them for a while.
#![allow(unsafe_code)]

use super::patience::Patience;
use crate::error::IoError;
use crate::io::{AtOnce, FileInfo, Op, OpKind, Segment};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// Bytes; a write of whole pages needs none of them read.
const PAGE: u64 = 4096;
/// Bytes; larger writes are left to workers, whose copying another core does.
const LARGEST: u64 = 64 * 1024;

/// What runs at once on one thread.
pub struct Inline {
    started: Instant,
    patience: Patience,
}

impl Default for Inline {
    fn default() -> Self {
        Self { started: Instant::now(), patience: Patience::default() }
    }
}

impl Inline {
    /// Runs an operation if it is one to be made at once, and returns it with the bytes moved.
    ///
    /// # Errors
    /// The operation, if the ring is to have it.
    #[inline]
    pub fn try_run(&mut self, info: &FileInfo, op: Op) -> Result<(Op, Result<u64, IoError>), Op> {
        match (info.at_once, op.kind) {
            (AtOnce::All, OpKind::Read | OpKind::Write { .. }) => Ok(run(&info.fd, op)),
            (AtOnce::Writes, OpKind::Write { stable: false }) => self.try_write(&info.fd, op),
            _ => Err(op),
        }
    }

    fn try_write(&mut self, fd: &OwnedFd, op: Op) -> Result<(Op, Result<u64, IoError>), Op> {
        let began = self.now();
        let whole_pages = (op.offset | op.len).is_multiple_of(PAGE) && op.len <= LARGEST;
        if !whole_pages || !self.patience.allows(began) {
            return Err(op);
        }
        let outcome = run(fd, op);
        self.patience.learn(began, self.now());
        Ok(outcome)
    }

    /// Nanoseconds.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Runs a read or write to its end of file, error or first short transfer; returns the bytes moved.
fn run(fd: &OwnedFd, op: Op) -> (Op, Result<u64, IoError>) {
    let result = transfer(fd, &op);
    (op, result)
}

fn transfer(fd: &OwnedFd, op: &Op) -> Result<u64, IoError> {
    let segments = op.memory.segments();
    let count = i32::try_from(segments.len().min(1024)).unwrap_or(1024);
    let list: *const libc::iovec = segments.as_ptr().cast::<Segment>().cast();
    let offset = i64::try_from(op.offset).map_err(|_| IoError::Invalid)?;
    loop {
        // SAFETY: Segment has iovec's layout and its memory is kept by the operation.
        let moved = unsafe {
            match op.kind {
                OpKind::Read => libc::preadv(fd.as_raw_fd(), list, count, offset),
                _ => libc::pwritev(fd.as_raw_fd(), list, count, offset),
            }
        };
        if let Ok(moved) = u64::try_from(moved) {
            return Ok(moved);
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error.into());
        }
    }
}
