//! An operation as data: what to do, to which file, with whose memory.

use super::{FileId, Memory};
use crate::error::IoError;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Fills the memory from the file; past the end of the file it reads zeroes.
    Read,
    /// Writes the memory to the file; `stable` means on the medium before completion (RWF_DSYNC).
    Write {
        /// Stable before completion.
        stable: bool,
    },
    /// Makes all completed writes of the file stable (fdatasync).
    Flush,
    /// Gives the range's space back; it reads as anything that was written or zero afterwards.
    Discard,
    /// The range reads as zeroes afterwards; with `unmap` its space may be given back.
    Zero {
        /// The space may be given back.
        unmap: bool,
    },
    /// Makes the file reach at least to the end of the range; what is new reads as zeroes and takes no space.
    Grow,
    /// Makes the file end at the offset at the latest.
    Cut,
    /// Finds out how far from the offset on the file is all data or all hole, at most the operation's length: that is
    /// its length afterwards. Holes read as zeroes; data may as well.
    Extent {
        /// Filled in: whether it is data.
        data: bool,
    },
    /// Takes what has come on a connected socket, at least a byte and at most what the memory holds: that is the
    /// operation's length afterwards. 0 is the end: the other side sends no more.
    Receive,
    /// Sends all of the memory on a connected socket. Only one may be under way on a socket.
    Send,
}

/// One operation on one file, owning its memory until it completes.
#[derive(Debug)]
pub struct Op {
    /// What to do.
    pub kind: OpKind,
    /// The file.
    pub file: FileId,
    /// Bytes into the file; 0 for sockets.
    pub offset: u64,
    /// Bytes; for whatever moves bytes the length of `memory`.
    pub len: u64,
    /// The memory to read into or write from; empty for the other kinds.
    pub memory: Memory,
}

impl Op {
    /// A read that fills `memory`.
    pub fn read(file: FileId, offset: u64, memory: Memory) -> Self {
        Self { kind: OpKind::Read, file, offset, len: memory.len(), memory }
    }

    /// A write of `memory`.
    pub fn write(file: FileId, offset: u64, memory: Memory, stable: bool) -> Self {
        Self { kind: OpKind::Write { stable }, file, offset, len: memory.len(), memory }
    }

    /// Takes what has come on a socket.
    pub fn receive(socket: FileId, memory: Memory) -> Self {
        Self { kind: OpKind::Receive, file: socket, offset: 0, len: memory.len(), memory }
    }

    /// Sends all of `memory` on a socket.
    pub fn send(socket: FileId, memory: Memory) -> Self {
        Self { kind: OpKind::Send, file: socket, offset: 0, len: memory.len(), memory }
    }

    /// An operation without memory.
    pub fn bare(kind: OpKind, file: FileId, offset: u64, len: u64) -> Self {
        Self { kind, file, offset, len, memory: Memory::empty() }
    }
}

/// Whom a completion is for; opaque to the implementations of `Io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// A finished operation, or (without `op`) a report of a watch.
#[derive(Debug)]
pub struct Completion {
    /// As given to `submit` or `watch`.
    pub token: Token,
    /// The operation and its memory.
    pub op: Option<Op>,
    /// Bytes moved (may be short), 0 for kinds that move none, or why it failed. For an extent, see
    /// [`extent_code`].
    pub result: Result<u64, IoError>,
}

/// How the result of [`OpKind::Extent`] travels: the length, and in the lowest bit whether it is data.
pub(super) fn extent_code(len: u64, data: bool) -> u64 {
    len << 1 | u64::from(data)
}

impl Op {
    /// Puts what [`extent_code`] says into an extent operation.
    pub(crate) fn set_extent(&mut self, code: u64) {
        self.kind = OpKind::Extent { data: code & 1 == 1 };
        self.len = code >> 1;
    }
}
