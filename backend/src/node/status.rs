//! What a node knows of its content without reading it: whether it is data, whether it reads as zeroes, and which of its
//! images has it.

use super::{Driver, Node};
use crate::error::IoError;
use crate::reactor::Handle;
use std::pin::Pin;

/// What is so for the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// How many bytes.
    pub len: u64,
    /// They take space.
    pub data: bool,
    /// They read as zeroes.
    pub zero: bool,
    /// Which image of the chain has them, 1 for the topmost; 0 for none.
    pub depth: u32,
}

/// A look under way.
pub type Looking<'a> = Pin<Box<dyn Future<Output = Result<Status, IoError>> + 'a>>;

/// A look for zeroes under way: bytes, and whether they may be data.
pub type Extent<'a> = Pin<Box<dyn Future<Output = Result<(u64, bool), IoError>> + 'a>>;

impl Status {
    /// Of bytes that somebody has written, for all that is known.
    pub fn data(len: u64) -> Self {
        Self { len, data: true, zero: false, depth: 1 }
    }

    /// Of bytes that an image says are zeroes.
    pub fn zeroes(len: u64) -> Self {
        Self { len, data: false, zero: true, depth: 1 }
    }

    /// Of bytes that no image has.
    pub fn nothing(len: u64) -> Self {
        Self { len, data: false, zero: true, depth: 0 }
    }

    /// Of the same bytes, seen from an image above.
    pub fn below(self) -> Self {
        Self { depth: if self.depth > 0 { self.depth.saturating_add(1) } else { 0 }, ..self }
    }
}

impl Node {
    /// How far from `offset` on, at most `len`, the content is known to be all zeroes (false) or may be data (true).
    ///
    /// # Errors
    /// The storage's.
    pub fn extent<'a>(&'a self, io: &'a Handle, offset: u64, len: u64) -> Extent<'a> {
        Box::pin(async move {
            match &self.driver {
                Driver::File(file) => file.extent(io, (offset, len), self.length()).await,
                Driver::Raw(raw) => raw.child().extent(io, offset + raw.offset(), len).await,
                Driver::Null(null) => Ok((len, !null.options().read_zeroes)),
                Driver::Nbd(disk) => disk.extent(offset, len).await,
                Driver::Qcow2(image) => image.extent(io, offset, len).await,
                Driver::SnapshotAccess(reader) => {
                    let status = reader.status(io, offset, len).await?;
                    Ok((status.len, !status.zero))
                }
                Driver::Throttle(filter) => filter.child().extent(io, offset, len).await,
                Driver::Passing(filter) => filter.child().extent(io, offset, len).await,
                Driver::BlkDebug(_) | Driver::CopyBeforeWrite(_) => Ok((len, true)),
            }
        })
    }

    /// What is known of the bytes from `offset` on, of at most `len` and at least one; inside the node.
    ///
    /// # Errors
    /// The storage's.
    pub fn status<'a>(&'a self, io: &'a Handle, offset: u64, len: u64) -> Looking<'a> {
        Box::pin(async move {
            match self.driver() {
                Driver::File(file) => {
                    let (len, data) = file.extent(io, (offset, len), self.length()).await?;
                    Ok(if data { Status::data(len) } else { Status::zeroes(len) })
                }
                Driver::Raw(raw) => {
                    let child = raw.child();
                    child.status(io, offset + raw.offset(), len).await
                }
                Driver::Null(null) if null.options().read_zeroes => Ok(Status::zeroes(len)),
                Driver::Null(_) => Ok(Status { zero: false, ..Status::nothing(len) }),
                Driver::Nbd(disk) => disk.status(offset, len).await,
                Driver::Qcow2(image) => image.status(io, offset, len).await,
                Driver::BlkDebug(filter) => filter.child().status(io, offset, len).await,
                Driver::Throttle(filter) => filter.child().status(io, offset, len).await,
                Driver::Passing(filter) => filter.child().status(io, offset, len).await,
                Driver::CopyBeforeWrite(filter) => filter.child().status(io, offset, len).await,
                Driver::SnapshotAccess(reader) => reader.status(io, offset, len).await,
            }
        })
    }

    /// The smallest piece the storage can write in one go, in bytes.
    pub fn request_alignment(&self) -> u32 {
        match self.driver() {
            Driver::File(file) => file.alignment(),
            Driver::BlkDebug(filter) => filter.alignment(),
            Driver::Nbd(disk) => disk.alignment(),
            _ => self.child().map_or(1, |child| child.request_alignment()),
        }
    }

    /// Whether making a range zeroes is faster than writing anything else there.
    pub fn zeroes_fast(&self, offset: u64, len: u64) -> bool {
        match self.driver() {
            Driver::File(file) => file.zeroes_fast(),
            Driver::Nbd(disk) => disk.zeroes_fast(),
            Driver::Null(_) => true,
            Driver::Qcow2(image) => {
                let (cluster, end) = (image.cluster_size(), offset + len);
                offset.is_multiple_of(cluster) && (end.is_multiple_of(cluster) || end == self.length())
            }
            Driver::SnapshotAccess(_) => false,
            Driver::Raw(raw) => raw.child().zeroes_fast(offset + raw.offset(), len),
            Driver::BlkDebug(_) | Driver::Throttle(_) | Driver::Passing(_) | Driver::CopyBeforeWrite(_) => {
                self.child().is_some_and(|child| child.zeroes_fast(offset, len))
            }
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({} {})", self.name, self.driver_name())
    }
}
