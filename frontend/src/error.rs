//! What can go wrong on the guest's side, with enough words to find out whose fault it was.
//!
//! A request the device answered with an error status is not an error here: see [`crate::Status`].

use std::io;
use std::path::PathBuf;

/// Short for a result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a front-end operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody accepted the connection before the deadline.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket tried.
        path: PathBuf,
        /// What the last attempt said.
        source: io::Error,
    },
    /// A vhost-user message was refused, not answered in time, or the connection broke.
    #[error("vhost-user {message} failed")]
    Message {
        /// Name of the message in the specification.
        message: &'static str,
        /// What crate `vhost` reported.
        source: vhost::Error,
    },
    /// The back-end does not offer features the caller insists on.
    #[error("back-end offers features {offered:#x}, which lack {missing:#x}")]
    MissingFeatures {
        /// Feature bits offered.
        offered: u64,
        /// Required bits that are not among them.
        missing: u64,
    },
    /// The operation needs something that was not negotiated.
    #[error("{0} was not negotiated")]
    NotNegotiated(&'static str),
    /// A system call failed.
    #[error("{action} failed")]
    System {
        /// What was being done.
        action: &'static str,
        /// The error number.
        source: io::Error,
    },
    /// A guest memory region cannot be made as asked.
    #[error("guest memory region of {len} bytes at {addr:#x}: {reason}")]
    Region {
        /// Guest physical address.
        addr: u64,
        /// Length in bytes.
        len: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// No region holds these bytes.
    #[error("no guest memory for {len} bytes at {addr:#x}")]
    BadAddress {
        /// Guest physical address.
        addr: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The arena has no room left.
    #[error("arena has no {len} bytes left")]
    ArenaFull {
        /// Bytes asked for.
        len: u64,
    },
    /// A queue number, queue size, offset or length that the operation cannot take.
    #[error("invalid {what}: {value}")]
    Invalid {
        /// What was invalid.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// No descriptor is free: complete something first.
    #[error("queue {queue} is full")]
    QueueFull {
        /// Number of the queue.
        queue: u16,
    },
    /// The back-end broke the rules of the used ring.
    #[error("queue {queue}: back-end broke the used ring: {reason}")]
    UsedRing {
        /// Number of the queue.
        queue: u16,
        /// Which rule.
        reason: String,
    },
}

impl Error {
    pub(crate) fn message(message: &'static str) -> impl FnOnce(vhost::Error) -> Error {
        move |source| Error::Message { message, source }
    }

    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { action, source: source.into() }
    }
}
