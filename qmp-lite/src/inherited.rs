//! Descriptors that the daemon was started with and that the command line names by number.
//!
//! Knows no use for them. A descriptor is taken once; it belongs to whoever asked for it then.

use std::os::fd::OwnedFd;

use rustix::net::sockopt::socket_type;
use tidemark_backend::io::take_inherited;

use crate::error::QmpError;

/// Descriptor `number`, which has to be a socket.
///
/// # Errors
/// QEMU's text if it was not inherited, was taken before, or is no socket.
pub fn socket(number: &str) -> Result<OwnedFd, QmpError> {
    let parsed = number.parse().ok().filter(|&fd| fd >= 0);
    let Some(fd) = parsed else {
        return Err(QmpError::generic(format!("Unable to parse FD number {number}")));
    };
    take_inherited(fd).and_then(|fd| socket_type(&fd).map(|_| fd)).map_err(|error| {
        tracing::debug!("file descriptor {fd}: {error}");
        QmpError::generic(format!("File descriptor '{number}' is not a socket"))
    })
}
