//! The transmission phase: requests, and their replies.
//!
//! A request is a header, and the data of a write. A reply is one header with the data of a read (simple), or chunks
//! with payloads of their own kinds (structured, and with wider numbers extended). Which headers are in use was agreed
//! on before.

mod errno;
mod payload;
mod reply;
mod request;

pub use errno::{from_wire, to_wire};
pub use payload::{Extent, Failure, Hole, STATUS_EXTENTS_MAX, Status, failure, hole, offset_data, status};
pub use reply::{Chunk, ReplyHead, chunk_size, simple_reply};
pub use request::{Command, Request};

/// Why bytes are not what the protocol says; a connection that brings such is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Neither a request nor a reply begins like this.
    #[error("invalid magic number")]
    Magic,
    /// A reply of a form that was not agreed on.
    #[error("unexpected form of reply")]
    Form,
    /// A payload that cannot be so long or so short.
    #[error("invalid payload length")]
    Length,
    /// A member that cannot have this value.
    #[error("invalid payload")]
    Value,
}

/// Which headers both ends have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Headers {
    /// Simple replies alone.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended requests and replies.
    Extended,
}

/// What an export can do, as it says in the handshake.
pub mod export_flags {
    /// The others mean something.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Nothing can be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The flag FUA.
    pub const SEND_FUA: u16 = 1 << 3;
    /// Seeks cost time.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// TRIM.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES, and the flag NO_HOLE.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The flag DF.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what has completed on all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The flag FAST_ZERO.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// BLOCK_STATUS may name the contexts it asks for.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// How a command is meant.
pub mod command_flags {
    /// Stable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES keeps the space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// The data of a READ comes in one chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS about one extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES fails rather than write zeroes.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length of an extended request is that of its payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// What chunks are.
pub mod chunk_kind {
    /// Nothing; the last of a reply.
    pub const NONE: u16 = 0;
    /// Data of a READ.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes of a READ.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of one context.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents of one context, in 64 bits.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in the kinds that say that the request has failed.
    pub const IS_ERROR: u16 = 1 << 15;
    /// It has failed.
    pub const ERROR: u16 = IS_ERROR | 1;
    /// It has failed at an offset.
    pub const ERROR_OFFSET: u16 = IS_ERROR | 2;
}

/// In the flags of a chunk: it is the reply's last.
pub const REPLY_DONE: u16 = 1 << 0;

/// In the status of `base:allocation`: no space is taken.
pub const STATE_HOLE: u64 = 1 << 0;
/// In the status of `base:allocation`: it reads as zeroes.
pub const STATE_ZERO: u64 = 1 << 1;
/// In the status of `qemu:dirty-bitmap:NAME`: it is marked.
pub const STATE_DIRTY: u64 = 1 << 0;

/// The error numbers of the protocol.
pub mod error_number {
    /// EPERM.
    pub const PERM: u32 = 1;
    /// EIO.
    pub const IO: u32 = 5;
    /// ENOMEM.
    pub const NOMEM: u32 = 12;
    /// EINVAL.
    pub const INVAL: u32 = 22;
    /// ENOSPC.
    pub const NOSPC: u32 = 28;
    /// EOVERFLOW.
    pub const OVERFLOW: u32 = 75;
    /// ENOTSUP.
    pub const NOTSUP: u32 = 95;
    /// ESHUTDOWN.
    pub const SHUTDOWN: u32 = 108;
}

/// Takes big-endian numbers from the front of bytes.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (number, rest) = self.0.split_first_chunk::<N>().ok_or(WireError::Length)?;
        self.0 = rest;
        Ok(*number)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests;
