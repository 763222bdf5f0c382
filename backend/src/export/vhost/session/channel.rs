//! A look at the next message before crate `vhost` takes it.
//!
//! The crate does not say which message failed or whether it wanted a reply, and it hides the descriptor of the channel
//! for our own messages (SET_BACKEND_REQ_FD) in a type that cannot send a configuration change. Peeking leaves
//! everything in place for it; a peeked descriptor is a duplicate.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use vhost::vhost_user::message::FrontendReq;

/// Length of a message's header in bytes (vhost-user.rst, "Header").
const HEADER_LEN: usize = 12;
/// The `need_reply` bit of its flags.
const NEED_REPLY: u32 = 8;

/// The start of a message's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    request: u32,
    flags: u32,
}

impl Header {
    /// Which message it is; `None` for one that the protocol does not have.
    pub(super) fn request(&self) -> Option<FrontendReq> {
        FrontendReq::try_from(self.request).ok()
    }

    /// Whether the front-end wants to hear how it went.
    pub(super) fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.request() {
            Some(request) => write!(f, "{request:?}"),
            None => write!(f, "unknown request {}", self.request),
        }
    }
}

/// The header of the next message, which stays where it is; `None` at the end of the connection. The flags of a header
/// that has not arrived as a whole count as zero.
pub(super) fn peek_header(stream: &UnixStream) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_LEN];
    let len = loop {
        match rustix::net::recv(stream, &mut bytes, RecvFlags::PEEK) {
            Err(rustix::io::Errno::INTR) => {}
            // The front-end died with messages of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            result => break result?.0,
        }
    };
    let [r0, r1, r2, r3, f0, f1, f2, f3, ..] = bytes;
    let header = Header { request: u32::from_ne_bytes([r0, r1, r2, r3]), flags: u32::from_ne_bytes([f0, f1, f2, f3]) };
    Ok((len > 0).then_some(header))
}

/// A duplicate of the first descriptor that comes with the next message, if any does.
pub(super) fn peek_fd(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(fds.next().and_then(|mut fds| fds.next()))
}
