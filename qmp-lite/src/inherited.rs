//! Descriptors that the daemon was started with and that the command line names by number.
//!
//! Knows no use for them. The daemon works on a duplicate; the descriptor itself stays open.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::sockopt::socket_type;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::error::QmpError;

/// A duplicate of descriptor `number`, which has to be a socket.
///
/// # Errors
/// QEMU's text if it is not open or no socket.
pub fn socket(number: &str) -> Result<OwnedFd, QmpError> {
    let parsed = number.parse().ok().filter(|&fd| fd >= 0);
    let Some(fd) = parsed else {
        return Err(QmpError::generic(format!("Unable to parse FD number {number}")));
    };
    duplicate(fd).and_then(|fd| socket_type(&fd).map(|_| fd).map_err(Into::into)).map_err(|error| {
        tracing::debug!("file descriptor {fd}: {error}");
        QmpError::generic(format!("File descriptor '{number}' is not a socket"))
    })
}

fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(own, fd, PidfdGetfdFlags::empty())?)
}
