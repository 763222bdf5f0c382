//! Reads and writes of files in memory, done at once: the copy costs less than handing it to a kernel worker.
#![allow(unsafe_code)]

use crate::error::IoError;
use crate::io::{Op, OpKind, Segment};
use std::os::fd::{AsRawFd, OwnedFd};

/// Runs a read or write to its end of file, error or first short transfer; returns the bytes moved.
pub fn run(fd: &OwnedFd, op: &mut Op) -> Result<u64, IoError> {
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
