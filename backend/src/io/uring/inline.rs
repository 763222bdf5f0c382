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

/// Nanoseconds between two looks at how often the thread has slept.
const LOOK: u64 = 1_000_000;

/// What runs at once on one thread.
pub struct Inline {
    started: Instant,
    patience: Patience,
    /// How often the thread had slept, and when it looked.
    slept: (u64, u64),
}

impl Default for Inline {
    fn default() -> Self {
        Self { started: Instant::now(), patience: Patience::default(), slept: (times_slept(), 0) }
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
        if began.saturating_sub(self.slept.1) > LOOK {
            self.slept = (times_slept(), began);
        }
        let outcome = run(fd, op);
        // Who had to let another thread run has not waited for storage.
        let slept = self.slept.0;
        self.patience.learn(began, self.now(), || times_slept() != slept);
        Ok(outcome)
    }

    /// Nanoseconds.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// How often this thread has slept of its own accord; what took its core from it does not count.
fn times_slept() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call writes to `usage` at most, for which all zeroes is a value.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_nvcsw).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_thread_that_waits_has_slept() {
        let before = times_slept();
        std::thread::sleep(Duration::from_millis(1));
        assert!(times_slept() > before);
    }
}
