//! Errors of the data plane (`IoError`, a small code) and of the control plane (enums with names).
//!
//! Knows no protocol: each protocol has its own table from [`IoError`] to its codes.

/// Why an I/O failed, as far as a guest or a client can be told. Everything else is [`IoError::Io`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IoError {
    /// EIO, and every errno without a code of its own.
    #[error("Input/output error")]
    Io,
    /// ENOSPC, EDQUOT: the storage is full.
    #[error("No space left on device")]
    NoSpace,
    /// EINVAL: outside the disk, not aligned, malformed.
    #[error("Invalid argument")]
    Invalid,
    /// EPERM, EACCES, EROFS: the node or file is read-only.
    #[error("Operation not permitted")]
    Permission,
    /// EOPNOTSUPP: the storage cannot do this.
    #[error("Operation not supported")]
    Unsupported,
    /// ENOMEM.
    #[error("Cannot allocate memory")]
    NoMemory,
    /// ECANCELED, EINTR: ended before it was done.
    #[error("Operation canceled")]
    Canceled,
    /// EFAULT: the memory of the request is gone.
    #[error("Bad address")]
    Fault,
}

impl IoError {
    /// The code for a Linux errno (positive).
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Self::NoSpace,
            libc::EINVAL => Self::Invalid,
            libc::EPERM | libc::EACCES | libc::EROFS => Self::Permission,
            libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::ENOTTY => Self::Unsupported,
            libc::ENOMEM => Self::NoMemory,
            libc::ECANCELED | libc::EINTR => Self::Canceled,
            libc::EFAULT => Self::Fault,
            _ => Self::Io,
        }
    }

    /// The Linux errno (positive) that stands for this code.
    pub fn errno(self) -> i32 {
        match self {
            Self::Io => libc::EIO,
            Self::NoSpace => libc::ENOSPC,
            Self::Invalid => libc::EINVAL,
            Self::Permission => libc::EPERM,
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::NoMemory => libc::ENOMEM,
            Self::Canceled => libc::ECANCELED,
            Self::Fault => libc::EFAULT,
        }
    }
}

impl From<std::io::Error> for IoError {
    fn from(error: std::io::Error) -> Self {
        error.raw_os_error().map_or(Self::Io, Self::from_errno)
    }
}

/// Errors of the graph: opening, closing, resizing and naming nodes. The texts are QEMU's.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// A root node without a name.
    #[error("'node-name' must be specified for the root node")]
    NameMissing,
    /// A name that is not an identifier.
    #[error("Invalid node-name: '{0}'")]
    NameInvalid(String),
    /// A name in use.
    #[error("Duplicate nodes with node-name='{0}'")]
    NameTaken(String),
    /// A reference to no node.
    #[error("Cannot find device='{0}' nor node-name='{0}'")]
    ChildNotFound(String),
    /// `blockdev-del` of no node.
    #[error("Failed to find node with node-name='{0}'")]
    NotFound(String),
    /// `blockdev-del` of a node with parents.
    #[error("Node {0} is in use")]
    InUse(String),
    /// A node that a job has for itself.
    #[error("Node '{name}' is busy: {reason}")]
    Busy {
        /// The node.
        name: String,
        /// What has it, in QEMU's words.
        reason: &'static str,
    },
    /// `blockdev-del` of a node that only its parent owns.
    #[error("Node {0} is not owned by the monitor")]
    NotOwned(String),
    /// A file that cannot be opened.
    #[error("Could not open '{path}': {}", errno_text(source))]
    Open {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An image lock that somebody else holds.
    #[error("Failed to get {} lock", .0.text())]
    Locked(LockConflict),
    /// What an image shows where it has nothing itself cannot be opened.
    #[error("Could not open backing file: {0}")]
    Backing(Box<GraphError>),
    /// Options that contradict each other or the file; the text says which.
    #[error("{0}")]
    Options(String),
    /// A failed system call on a named file.
    #[error("{what} '{path}': {}", errno_text(source))]
    File {
        /// What was tried ("Could not resize").
        what: &'static str,
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No memory for bitmaps.
    #[error(transparent)]
    OutOfMemory(#[from] tidemark_cbt::OutOfMemory),
    /// An image that cannot have that size, or did not get it.
    #[error(transparent)]
    Resize(Box<dyn std::error::Error + Send + Sync>),
    /// An operation the driver does not have.
    #[error("Driver '{driver}' of node '{node}' does not support {what}")]
    Unsupported {
        /// The driver's name.
        driver: &'static str,
        /// The node's name.
        node: String,
        /// The operation.
        what: &'static str,
    },
    /// `writable` on a node opened read-only.
    #[error("Cannot export read-only node as writable")]
    ReadOnly,
    /// A read-only node that is to be written by a job or a filter.
    #[error("Block node is read-only")]
    NotWritable,
    /// A kernel that refuses io_uring; the text says which switch to look at.
    #[error("{0}")]
    Uring(String),
}

/// What kept an image lock from being taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockConflict {
    /// QEMU's name of the permission ("write").
    pub permission: &'static str,
    /// True if the other side does not share it, false if it holds it and we do not share.
    pub shared: bool,
    /// The file.
    pub path: String,
}

impl LockConflict {
    fn text(&self) -> String {
        let shared = if self.shared { "shared " } else { "" };
        format!("{shared}\"{}\"", self.permission)
    }

    /// QEMU's hint, a second line under the error.
    pub fn hint(&self) -> String {
        format!("Is another process using the image [{}]?", self.path)
    }
}

/// `strerror` text of a system error, without Rust's "(os error N)".
pub fn errno_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
