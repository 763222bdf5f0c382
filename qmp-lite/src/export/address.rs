//! Where an export's clients connect: QEMU's socket addresses, of which exports can use two kinds.
//!
//! Knows which descriptors may be named by whom; creates no socket.

use tidemark_backend::export::vhost::Address;

use crate::context::Origin;
use crate::error::QmpError;
use crate::inherited;
use crate::schema::{qapi_enum, qapi_struct, qapi_union};

/// The bytes of a path that fit into a UNIX socket's address, with the final zero left out.
const PATH_BYTES: usize = 107;

qapi_union! {
    /// A socket.
    pub struct SocketAddress "SocketAddress" {
        /// The kind of address.
        "type" kind: SocketAddressType,
    }
    /// The members of its kind.
    pub enum SocketAddressOptions by "type" kind: SocketAddressType {
        /// `inet`
        Inet(InetSocketAddress),
        /// `unix`
        Unix(UnixSocketAddress),
        /// `vsock`
        Vsock(VsockSocketAddress),
        /// `fd`
        Fd(FdSocketAddress),
    }
}

qapi_enum! {
    /// The kinds of socket. Exports use `unix` and `fd`.
    pub enum SocketAddressType "SocketAddressType" {
        /// TCP.
        Inet = "inet",
        /// A UNIX socket.
        Unix = "unix",
        /// A socket of a virtual machine.
        Vsock = "vsock",
        /// A socket that is open already.
        Fd = "fd",
    }
}

qapi_struct! {
    /// A TCP address.
    pub struct InetSocketAddress "InetSocketAddress" {
        /// The host.
        "host" host: String,
        /// The port.
        "port" port: String,
    }
}

qapi_struct! {
    /// A UNIX socket's address.
    pub struct UnixSocketAddress "UnixSocketAddress" {
        /// The path.
        "path" path: String,
        /// Whether the path is a name in the abstract namespace. Only false is supported.
        "abstract" is_abstract: Option<bool>,
        /// How long an abstract name is; without meaning for others.
        "tight" tight: Option<bool>,
    }
}

qapi_struct! {
    /// The address of a virtual machine's socket.
    pub struct VsockSocketAddress "VsockSocketAddress" {
        /// The machine.
        "cid" cid: String,
        /// The port.
        "port" port: String,
    }
}

qapi_struct! {
    /// A socket that is open already.
    pub struct FdSocketAddress "FdSocketAddress" {
        /// The number of a descriptor that the daemon was started with. Only the command line may name one.
        "str" number: String,
    }
}

impl SocketAddress {
    /// What the back end understands. `mode` and `group` are for a socket that is created.
    pub(super) fn open(self, origin: Origin, mode: Option<u32>, group: Option<u32>) -> Result<Address, QmpError> {
        match self.branch {
            SocketAddressOptions::Unix(unix) if unix.is_abstract == Some(true) => {
                Err(QmpError::generic("Abstract UNIX sockets are not supported for exports"))
            }
            SocketAddressOptions::Unix(UnixSocketAddress { path, .. }) => {
                if path.len() > PATH_BYTES {
                    return Err(QmpError::generic(format!("UNIX socket path '{path}' is too long")));
                }
                let mode = mode.unwrap_or_else(|| 0o777 & !umask());
                Ok(Address::Path { path: path.into(), mode, group })
            }
            SocketAddressOptions::Fd(_) if mode.is_some() || group.is_some() => {
                let text = "x-socket-mode and x-socket-group are for sockets with a path";
                Err(QmpError::generic(text))
            }
            SocketAddressOptions::Fd(fd) if origin == Origin::CommandLine => {
                inherited::socket(&fd.number).map(Address::Fd)
            }
            SocketAddressOptions::Fd(_) => Err(QmpError::generic("only QEMU supports file descriptor passing")),
            SocketAddressOptions::Inet(_) | SocketAddressOptions::Vsock(_) => {
                let text = "Only socket address types 'unix' and 'fd' are supported";
                Err(QmpError::generic(text))
            }
        }
    }
}

/// The process's umask, read without changing it; the usual one if the system does not tell.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|digits| u32::from_str_radix(digits.trim(), 8).ok()).unwrap_or(0o022)
}
