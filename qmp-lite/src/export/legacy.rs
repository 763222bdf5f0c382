//! QEMU's older form of socket addresses, in which the members stand under `data`.
//!
//! Knows how the two forms relate; nothing else.

use super::address::{
    FdSocketAddress, InetSocketAddress, SocketAddress, SocketAddressOptions, SocketAddressType, UnixSocketAddress,
    VsockSocketAddress,
};
use crate::schema::{qapi_struct, qapi_union};

qapi_union! {
    /// A socket, in the older form.
    pub struct SocketAddressLegacy "SocketAddressLegacy" {
        /// The kind of address.
        "type" kind: SocketAddressType,
    }
    /// The members of its kind.
    pub enum SocketAddressLegacyOptions by "type" kind: SocketAddressType {
        /// `inet`
        Inet(InetSocketAddressWrapper),
        /// `unix`
        Unix(UnixSocketAddressWrapper),
        /// `vsock`
        Vsock(VsockSocketAddressWrapper),
        /// `fd`
        Fd(FdSocketAddressWrapper),
    }
}

qapi_struct! {
    /// A TCP address.
    pub struct InetSocketAddressWrapper "InetSocketAddressWrapper" {
        /// Its members.
        "data" data: InetSocketAddress,
    }
}

qapi_struct! {
    /// A UNIX socket's address.
    pub struct UnixSocketAddressWrapper "UnixSocketAddressWrapper" {
        /// Its members.
        "data" data: UnixSocketAddress,
    }
}

qapi_struct! {
    /// The address of a virtual machine's socket.
    pub struct VsockSocketAddressWrapper "VsockSocketAddressWrapper" {
        /// Its members.
        "data" data: VsockSocketAddress,
    }
}

qapi_struct! {
    /// A socket that is open already.
    pub struct FdSocketAddressWrapper "FdSocketAddressWrapper" {
        /// Its members.
        "data" data: FdSocketAddress,
    }
}

impl From<SocketAddressLegacy> for SocketAddress {
    fn from(legacy: SocketAddressLegacy) -> Self {
        let branch = match legacy.branch {
            SocketAddressLegacyOptions::Inet(inet) => SocketAddressOptions::Inet(inet.data),
            SocketAddressLegacyOptions::Unix(unix) => SocketAddressOptions::Unix(unix.data),
            SocketAddressLegacyOptions::Vsock(vsock) => SocketAddressOptions::Vsock(vsock.data),
            SocketAddressLegacyOptions::Fd(fd) => SocketAddressOptions::Fd(fd.data),
        };
        Self { kind: legacy.kind, branch }
    }
}
