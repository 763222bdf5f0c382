//! A virtio-blk request (virtio 1.2, section 5.2.6): from a descriptor chain to a request to a node.
//!
//! Header and parameters are copied before they are looked at. What the guest gets wrong is answered with the status
//! the specification names; nothing here touches storage.

use super::memory::{MemTable, MemoryPin};
use super::ring::Chain;
use crate::error::IoError;
use crate::io::{Memory, Segment};
use crate::node::{Kind, Request};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

/// Bytes of a sector, the unit of virtio-blk whatever the block size.
pub const SECTOR: u64 = 512;
/// Most sectors of one discard or write-zeroes; QEMU's limit.
pub const DISCARD_SECTORS_MAX: u32 = 32_768;

/// The status byte of a finished request (virtio 1.2, section 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// VIRTIO_BLK_S_OK.
    Ok,
    /// VIRTIO_BLK_S_IOERR.
    IoError,
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupported,
}

impl Status {
    /// The byte the guest sees.
    pub fn byte(self) -> u8 {
        let value = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        // The values are 0, 1 and 2.
        value.to_le_bytes()[0]
    }
}

impl From<Result<(), IoError>> for Status {
    fn from(result: Result<(), IoError>) -> Self {
        match result {
            Ok(()) => Self::Ok,
            Err(IoError::Unsupported) => Self::Unsupported,
            Err(_) => Self::IoError,
        }
    }
}

/// What a chain asks for.
#[derive(Debug)]
pub enum Command {
    /// A request to the node.
    Node(Request),
    /// The device's serial, into this memory.
    GetId(Memory),
}

/// The facts of a device that decide whether a request is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whether writes are allowed.
    pub writable: bool,
    /// Bytes of a logical block.
    pub block_size: u64,
    /// Whether each write is stable before it completes.
    pub stable: bool,
}

/// Takes a fetched chain apart. The status byte must be cut off before. `spare` is an empty list for the chain to go
/// on with.
///
/// # Errors
/// The status for a request that is malformed, not allowed or unknown.
pub fn parse(chain: &mut Chain, table: &MemoryPin, limits: Limits, spare: Vec<Segment>) -> Result<Command, Status> {
    let mut header = [0u8; 16];
    if !chain.cut_header(table, &mut header) {
        return Err(Status::IoError);
    }
    let [kind @ .., _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    match u32::from_le_bytes(kind) {
        VIRTIO_BLK_T_IN => {
            let memory = chain.take_writable(table, spare).ok_or(Status::IoError)?;
            transfer(Kind::Read, sector, memory, limits)
        }
        VIRTIO_BLK_T_OUT if limits.writable => {
            let memory = chain.take_readable(table, spare).ok_or(Status::IoError)?;
            transfer(Kind::Write, sector, memory, limits)
        }
        VIRTIO_BLK_T_FLUSH => Ok(Command::Node(bare(Kind::Flush, false, 0, 0))),
        VIRTIO_BLK_T_GET_ID => chain.take_writable(table, spare).map(Command::GetId).ok_or(Status::IoError),
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES | VIRTIO_BLK_T_OUT if !limits.writable => Err(Status::IoError),
        kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => {
            range(kind == VIRTIO_BLK_T_DISCARD, chain, table, limits)
        }
        _ => Err(Status::Unsupported),
    }
}

fn transfer(kind: Kind, sector: u64, memory: Memory, limits: Limits) -> Result<Command, Status> {
    let len = memory.len();
    let offset = byte_offset(sector, len, limits.block_size)?;
    let fua = kind == Kind::Write && limits.stable;
    match len {
        0 => Err(Status::IoError),
        _ => Ok(Command::Node(Request { kind, fua, offset, len, memory })),
    }
}

/// One segment of `struct virtio_blk_discard_write_zeroes`, the only one offered.
fn range(discard: bool, chain: &mut Chain, table: &MemTable, limits: Limits) -> Result<Command, Status> {
    let mut segment = [0u8; 16];
    if chain.readable_len() != segment.len() || !chain.cut_header(table, &mut segment) {
        return Err(Status::IoError);
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = segment;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let (sectors, flags) = (u32::from_le_bytes([n0, n1, n2, n3]), u32::from_le_bytes([f0, f1, f2, f3]));
    let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
    // Section 5.2.6.2: unknown flags, and unmap of a discard, are unsupported.
    if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || (discard && unmap) {
        return Err(Status::Unsupported);
    }
    if sectors > DISCARD_SECTORS_MAX {
        return Err(Status::IoError);
    }
    let len = u64::from(sectors) * SECTOR;
    let offset = byte_offset(sector, len, limits.block_size)?;
    let kind = if discard { Kind::Discard } else { Kind::Zero { unmap } };
    Ok(Command::Node(bare(kind, limits.stable, offset, len)))
}

fn bare(kind: Kind, fua: bool, offset: u64, len: u64) -> Request {
    Request { kind, fua, offset, len, memory: Memory::empty() }
}

fn byte_offset(sector: u64, len: u64, block_size: u64) -> Result<u64, Status> {
    let offset = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
    // Block sizes are powers of two.
    match (offset | len) & (block_size - 1) {
        0 => Ok(offset),
        _ => Err(Status::IoError),
    }
}
