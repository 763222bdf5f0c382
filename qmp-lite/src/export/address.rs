//! Where clients connect: QEMU's socket addresses, of which exports of vhost-user can use two kinds and NBD servers three.
//!
//! Knows which descriptors may be named by whom; creates no socket.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tidemark_backend::export::nbd::NbdAddress;
use tidemark_backend::export::vhost::Address;
use tidemark_backend::node::options::NbdServer;

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
    /// The kinds of socket. Exports of type vhost-user-blk use `unix` and `fd`, NBD servers `inet`, too, and their clients
    /// `inet` and `unix`.
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
            SocketAddressOptions::Unix(unix) => {
                let (path, mode) = (unix.path()?, mode.unwrap_or_else(|| 0o777 & !umask()));
                Ok(Address::Path { path, mode, group })
            }
            SocketAddressOptions::Fd(_) if mode.is_some() || group.is_some() => {
                let text = "x-socket-mode and x-socket-group are for sockets with a path";
                Err(QmpError::generic(text))
            }
            SocketAddressOptions::Fd(fd) => fd.take(origin).map(Address::Fd),
            SocketAddressOptions::Inet(_) | SocketAddressOptions::Vsock(_) => {
                let text = "Only socket address types 'unix' and 'fd' are supported";
                Err(QmpError::generic(text))
            }
        }
    }
}

impl SocketAddress {
    /// Where an NBD server listens.
    pub(super) fn listen(self, origin: Origin) -> Result<NbdAddress, QmpError> {
        match self.branch {
            SocketAddressOptions::Unix(unix) => unix.path().map(NbdAddress::Unix),
            SocketAddressOptions::Inet(inet) => Ok(NbdAddress::Tcp { host: inet.host, port: inet.port }),
            SocketAddressOptions::Fd(fd) => fd.take(origin).map(NbdAddress::Fd),
            SocketAddressOptions::Vsock(_) => {
                Err(QmpError::generic("Socket address type 'vsock' is not supported for NBD servers"))
            }
        }
    }
}

impl SocketAddress {
    /// Where an NBD server is.
    pub(crate) fn connect(self) -> Result<NbdServer, QmpError> {
        match self.branch {
            SocketAddressOptions::Unix(unix) => unix.path().map(NbdServer::Unix),
            SocketAddressOptions::Inet(inet) => Ok(NbdServer::Tcp { host: inet.host, port: inet.port }),
            SocketAddressOptions::Fd(_) => Err(QmpError::generic("only QEMU supports file descriptor passing")),
            SocketAddressOptions::Vsock(_) => {
                Err(QmpError::generic("Only socket address types 'inet' and 'unix' are supported"))
            }
        }
    }
}

impl UnixSocketAddress {
    /// Its path, if that can be one.
    fn path(self) -> Result<PathBuf, QmpError> {
        if self.is_abstract == Some(true) {
            return Err(QmpError::generic("Abstract UNIX sockets are not supported for exports"));
        }
        if self.path.len() > PATH_BYTES {
            return Err(QmpError::generic(format!("UNIX socket path '{}' is too long", self.path)));
        }
        Ok(self.path.into())
    }
}

impl FdSocketAddress {
    /// The socket, if whoever asks may name it.
    fn take(self, origin: Origin) -> Result<OwnedFd, QmpError> {
        match origin {
            Origin::CommandLine => inherited::socket(&self.number),
            Origin::Monitor => Err(QmpError::generic("only QEMU supports file descriptor passing")),
        }
    }
}

/// The process's umask, read without changing it; the usual one if the system does not tell.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|digits| u32::from_str_radix(digits.trim(), 8).ok()).unwrap_or(0o022)
}
