//! Errors as the protocol numbers them.

use super::error_number::{INVAL, IO, NOMEM, NOSPC, NOTSUP, PERM};
use crate::error::IoError;

/// The number a client is told.
pub fn to_wire(error: IoError) -> u32 {
    match error {
        IoError::Io | IoError::Canceled | IoError::Fault => IO,
        IoError::NoSpace => NOSPC,
        IoError::Invalid => INVAL,
        IoError::Permission => PERM,
        IoError::Unsupported => NOTSUP,
        IoError::NoMemory => NOMEM,
    }
}

/// What a server's number means. As in QEMU a number of no meaning is an invalid argument.
pub fn from_wire(error: u32) -> IoError {
    use super::error_number::{OVERFLOW, SHUTDOWN};
    match error {
        // No code of their own.
        IO | OVERFLOW | SHUTDOWN => IoError::Io,
        NOSPC => IoError::NoSpace,
        PERM => IoError::Permission,
        NOTSUP => IoError::Unsupported,
        NOMEM => IoError::NoMemory,
        _ => IoError::Invalid,
    }
}
