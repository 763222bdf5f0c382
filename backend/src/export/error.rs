//! Why an export could not be made or removed; the texts are QEMU's.

use crate::bitmaps::BitmapError;
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
    /// There is no such node.
    #[error("Cannot find device='' nor node-name='{0}'")]
    NodeNotFound(String),
    /// A second NBD server.
    #[error("NBD server already running")]
    ServerRunning,
    /// An NBD export without a server, or an end of none.
    #[error("NBD server not running")]
    ServerNotRunning,
    /// A host and port that nobody can listen on.
    #[error("{}: {}", listen_text(source), errno_text(source))]
    Listen {
        /// The system's reason.
        source: std::io::Error,
    },
    /// A host that has no address.
    #[error("address resolution failed for {address}: {reason}")]
    Resolve {
        /// The address as given.
        address: String,
        /// Why.
        reason: String,
    },
    /// A descriptor that nobody can connect to.
    #[error("File descriptor {fd} cannot be used as a listening socket: {}", errno_text(source))]
    ListenFd {
        /// The descriptor.
        fd: i32,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A name that clients know already.
    #[error("NBD server already has export named '{0}'")]
    NameTaken(String),
    /// A name of more than 4096 bytes.
    #[error("export name '{0}' too long")]
    NameTooLong(String),
    /// A description of more than 4096 bytes.
    #[error("description '{0}' too long")]
    DescriptionTooLong(String),
    /// A bitmap that neither the node nor one below it has.
    #[error("Bitmap '{0}' is not found")]
    BitmapNotFound(String),
    /// A bitmap that changes while clients are told that nothing does.
    #[error("Enabled bitmap '{0}' incompatible with readonly export")]
    BitmapEnabled(String),
    /// A bitmap of a node that there is not.
    #[error("Node '{0}' not found")]
    BitmapNodeNotFound(String),
    /// A bitmap that cannot be used.
    #[error(transparent)]
    Bitmap(#[from] BitmapError),
    /// A thread could not be started.
    #[error("Could not start a thread for export '{id}': {}", errno_text(source))]
    Thread {
        /// The export.
        id: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

fn listen_text(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "Failed to find an available port",
        _ => "Failed to bind socket",
    }
}
