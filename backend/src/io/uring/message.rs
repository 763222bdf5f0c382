//! Operations on sockets as submission entries.
#![allow(unsafe_code)]

use super::entry::{SEGMENTS_MAX, Target, on};
use crate::io::{Op, OpKind};
use io_uring::{opcode, squeue};

/// Bytes of one piece at most: the length of an operation has 32 bits, its result 31. The rest makes a short transfer.
const BYTES_MAX: usize = 0x7fff_f000;

/// What the kernel is shown of a list of segments until the entry is submitted.
pub type Header = Box<libc::msghdr>;

/// The header that `op` needs beside its entry: a socket has no other way to take a list.
pub fn header(op: &Op) -> Option<Header> {
    let segments = op.memory.segments();
    if !matches!(op.kind, OpKind::Receive | OpKind::Send) || segments.len() == 1 {
        return None;
    }
    // SAFETY: numbers and null pointers are what an empty header is made of.
    let mut header: Header = Box::new(unsafe { std::mem::zeroed() });
    header.msg_iov = segments.as_ptr().cast_mut().cast();
    header.msg_iovlen = segments.len().min(SEGMENTS_MAX);
    Some(header)
}

/// The entry for a receive; valid while `op` and `header` stay where they are.
pub fn receive(op: &Op, header: Option<&mut Header>, target: Target) -> squeue::Entry {
    match (header, op.memory.segments()) {
        (None, [segment]) => {
            let len = u32::try_from(segment.len.min(BYTES_MAX)).unwrap_or(0);
            on!(target, file => opcode::Recv::new(file, segment.start.as_ptr(), len).build())
        }
        (Some(header), _) => on!(target, file => opcode::RecvMsg::new(file, &raw mut **header).build()),
        (None, _) => opcode::Nop::new().build(),
    }
}

/// The same for a send.
pub fn send(op: &Op, header: Option<&mut Header>, target: Target) -> squeue::Entry {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    match (header, op.memory.segments()) {
        (None, [segment]) => {
            let len = u32::try_from(segment.len.min(BYTES_MAX)).unwrap_or(0);
            on!(target, file => opcode::Send::new(file, segment.start.as_ptr(), len).flags(flags).build())
        }
        (Some(header), _) => {
            on!(target, file => opcode::SendMsg::new(file, &raw const **header).flags(flags.cast_unsigned()).build())
        }
        (None, _) => opcode::Nop::new().build(),
    }
}
