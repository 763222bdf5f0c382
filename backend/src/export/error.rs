//! Why an export could not be made or removed; the texts are QEMU's.

use crate::error::{GraphError, errno_text};

/// Errors of exports.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The id is no identifier.
    #[error("Invalid block export id")]
    InvalidId,
    /// The id is in use.
    #[error("Block export id '{0}' is already in use")]
    IdTaken(String),
    /// No export has this id.
    #[error("Export '{0}' is not found")]
    NotFound(String),
    /// A client is connected.
    #[error("export '{0}' still in use")]
    InUse(String),
    /// It is being removed already.
    #[error("Export '{0}' is already shutting down")]
    ShuttingDown(String),
    /// `num-queues=0`.
    #[error("num-queues must be greater than 0")]
    NoQueues,
    /// More queues than the device has.
    #[error("num-queues must be at most {max}")]
    TooManyQueues {
        /// The most there can be.
        max: u16,
    },
    /// `logical-block-size` out of range.
    #[error("parameter logical-block-size must be a power of 2 between 512 and 2097152")]
    BlockSize,
    /// A serial longer than virtio-blk's 20 bytes.
    #[error("serial '{0}' is longer than 20 bytes")]
    Serial(String),
    /// The node cannot be used like this.
    #[error(transparent)]
    Node(#[from] GraphError),
    /// The socket cannot be listened on.
    #[error("Failed to bind socket to {path}: {}", errno_text(source))]
    Bind {
        /// The socket's path.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another program listens on the socket.
    #[error("Failed to bind socket to {0}: another process is listening on it")]
    SocketLive(String),
    /// The descriptor given is no socket.
    #[error("File descriptor {fd} cannot be used as a vhost-user socket: {}", errno_text(source))]
    Fd {
        /// The descriptor.
        fd: i32,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("Could not start a thread for export '{id}': {}", errno_text(source))]
    Thread {
        /// The export.
        id: String,
        /// The system's reason.
        source: std::io::Error,
    },
}
