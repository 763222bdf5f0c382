//! What a guest asks of a block device and what comes back (virtio 1.2, 5.2.6).
//!
//! Offsets and lengths are bytes; sectors appear in the header only. Data lies in guest memory already: a request
//! names it. Nothing here touches the ring.

use crate::memory::GuestBuf;

/// Request types as numbers, for [`Request::Raw`].
pub mod request_type {
    use virtio_bindings::virtio_blk;

    /// Read.
    pub const IN: u32 = virtio_blk::VIRTIO_BLK_T_IN;
    /// Write.
    pub const OUT: u32 = virtio_blk::VIRTIO_BLK_T_OUT;
    /// Flush.
    pub const FLUSH: u32 = virtio_blk::VIRTIO_BLK_T_FLUSH;
    /// Get the serial number.
    pub const GET_ID: u32 = virtio_blk::VIRTIO_BLK_T_GET_ID;
    /// Discard.
    pub const DISCARD: u32 = virtio_blk::VIRTIO_BLK_T_DISCARD;
    /// Write zeroes.
    pub const WRITE_ZEROES: u32 = virtio_blk::VIRTIO_BLK_T_WRITE_ZEROES;
}

/// Flag of a write-zeroes segment: the device may deallocate.
pub(crate) const WRITE_ZEROES_F_UNMAP: u32 = 1;
/// Bytes of the serial number.
pub(crate) const ID_LEN: u32 = 20;

/// A data buffer of a raw request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the data lies.
    pub buf: GuestBuf,
    /// Whether the device writes to it.
    pub device_writes: bool,
}

/// One request. Buffers stay untouched by the caller until it completed.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Disk to memory; scattered in order.
    Read {
        /// First byte on disk, a multiple of 512.
        offset: u64,
        /// Where to put it.
        data: &'a [GuestBuf],
    },
    /// Memory to disk; gathered in order.
    Write {
        /// First byte on disk, a multiple of 512.
        offset: u64,
        /// What to write.
        data: &'a [GuestBuf],
    },
    /// Make everything completed so far stable.
    Flush,
    /// The contents are of no interest any more.
    Discard {
        /// First byte, a multiple of 512.
        offset: u64,
        /// Bytes, a multiple of 512.
        len: u64,
    },
    /// Make a range read as zeroes.
    WriteZeroes {
        /// First byte, a multiple of 512.
        offset: u64,
        /// Bytes, a multiple of 512.
        len: u64,
        /// The device may deallocate the range.
        unmap: bool,
    },
    /// Read the serial number.
    GetId {
        /// At least 20 bytes.
        data: GuestBuf,
    },
    /// Anything in well-formed descriptors: header, segments, status.
    Raw {
        /// Type field of the header.
        kind: u32,
        /// Sector field of the header.
        sector: u64,
        /// The segments between header and status, in order.
        segments: &'a [Segment],
    },
}

/// Names a request in flight. `slot` is unique among those of its queue, so that callers can keep arrays of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Below the queue's size.
    pub slot: u16,
    /// Counts requests of the queue.
    pub serial: u64,
}

/// What the device wrote into the status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// An error of the device or the medium, or a malformed request.
    IoError,
    /// The device does not know the request or a flag of it.
    Unsupported,
    /// None of the three, among them 255: the device wrote none.
    Other(u8),
}

impl Status {
    pub(crate) const UNWRITTEN: u8 = 0xff;

    pub(crate) fn from_byte(byte: u8) -> Status {
        match byte {
            0 => Status::Ok,
            1 => Status::IoError,
            2 => Status::Unsupported,
            other => Status::Other(other),
        }
    }
}

/// A request that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which one.
    pub token: Token,
    /// How it went.
    pub status: Status,
    /// Bytes the device says it wrote, the status byte included.
    pub written_len: u32,
}
