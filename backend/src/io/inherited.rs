//! Descriptors that the starting process left open for this one, named by number on a command line.
//!
//! The one place where a number becomes a descriptor. Everything this program opens is close-on-exec and nothing
//! inherited can be: that flag tells the two apart, and taking a descriptor sets it, so none is taken twice and none
//! of ours can be taken.
#![allow(unsafe_code)]

use rustix::io::{Errno, FdFlags};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

static TAKING: Mutex<()> = Mutex::new(());

/// Takes over descriptor `number`, which is close-on-exec from then on.
///
/// # Errors
/// `EBADF` when no such descriptor was inherited, when it is a standard stream, or when it was taken before.
pub fn take_inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    // 0 to 2 belong to the standard library.
    if number <= 2 {
        return Err(Errno::BADF);
    }
    // SAFETY: `number` is not -1, and the borrow ends below; if it is not open, fcntl says EBADF and nothing is done.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed)?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF);
    }
    rustix::io::fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: open, and inherited, since it was not close-on-exec: nothing in this process owns it. Nobody can take it
    // again, since it is close-on-exec now, which the lock makes one step.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn an_inherited_descriptor_can_be_taken_once() {
        let file = tempfile::tempfile().unwrap();
        // What an inherited descriptor looks like: open, and not close-on-exec. The duplicate's owner forgets it.
        let duplicate = rustix::io::dup(&file).unwrap();
        let number = duplicate.as_raw_fd();
        std::mem::forget(duplicate);
        let taken = take_inherited(number).unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        assert_eq!(take_inherited(number).err(), Some(Errno::BADF));
    }

    #[test]
    fn own_descriptors_standard_streams_and_closed_ones_cannot_be_taken() {
        let own = tempfile::tempfile().unwrap();
        for number in [own.as_raw_fd(), 0, 1, 2, -1, i32::MAX] {
            assert_eq!(take_inherited(number).err(), Some(Errno::BADF), "descriptor {number}");
        }
    }
}
