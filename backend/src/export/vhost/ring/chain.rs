//! A descriptor chain, followed and translated to host memory.
//!
//! Every descriptor is copied once and then judged; the copy is what is used. Invariant: the segments of a chain that
//! is not malformed lie in guest memory, readable before writable, none is empty, and they have fewer than 2^32 bytes
//! in all. A malformed chain has no segments.
#![allow(unsafe_code)]

use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use super::super::memory::{MemTable, MemoryPin, skip, take};
use super::layout::{DESC_LEN, Desc, DescTable};
use crate::io::{Memory, Segment};

/// The most descriptors of a chain, as in QEMU; virtio 1.2, section 2.7.4.1 allows a reasonable limit.
pub const MAX_CHAIN_LEN: u32 = 1024;

/// What is wrong with a chain (virtio 1.2, sections 2.7.4 and 2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A descriptor names one that does not exist as its next.
    #[error("descriptor {0} is beyond its table")]
    NextOutOfRange(u16),
    /// There are more descriptors than the table has: a loop; or more than [`MAX_CHAIN_LEN`].
    #[error("descriptor chain is a loop or too long")]
    Loop,
    /// A descriptor has length zero.
    #[error("descriptor has length zero")]
    ZeroLength,
    /// A buffer is not in guest memory.
    #[error("buffer at guest address {0:#x} is not in guest memory")]
    NotMapped(u64),
    /// A readable descriptor follows a writable one.
    #[error("readable descriptor follows a writable one")]
    ReadableAfterWritable,
    /// The chain has 2^32 bytes or more.
    #[error("descriptor chain has 2^32 bytes or more")]
    TooManyBytes,
    /// An indirect table although the feature was not negotiated.
    #[error("indirect descriptor without VIRTIO_F_INDIRECT_DESC")]
    IndirectNotNegotiated,
    /// An indirect table inside an indirect table.
    #[error("indirect descriptor inside an indirect table")]
    NestedIndirect,
    /// The length of an indirect table is zero or not a multiple of a descriptor's.
    #[error("indirect table of {0} bytes")]
    IndirectLength(u32),
    /// An indirect table is not in one region of guest memory.
    #[error("indirect table at guest address {0:#x} is not in guest memory")]
    IndirectNotMapped(u64),
}

/// A fetched request. Made to be used again and again: it keeps its storage.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    status: Option<Segment>,
}

impl Chain {
    /// An empty chain with room for `segments` segments in each direction.
    #[must_use]
    pub fn with_capacity(segments: usize) -> Chain {
        let (readable, writable) = (Vec::with_capacity(segments), Vec::with_capacity(segments));
        Chain { head: 0, readable, writable, status: None }
    }

    /// The head, which goes into the used ring.
    #[must_use]
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The memory the driver wants read, in order.
    #[must_use]
    #[inline]
    pub fn readable(&self) -> &[Segment] {
        &self.readable
    }

    /// The memory the driver wants written, in order; without the status once [`Chain::cut_status`] was called.
    #[must_use]
    #[inline]
    pub fn writable(&self) -> &[Segment] {
        &self.writable
    }

    /// The last writable byte, where a block device's status goes; `None` when nothing is writable.
    #[must_use]
    #[inline]
    pub fn status(&self) -> Option<Segment> {
        self.status
    }

    /// Copies the first `buf.len()` readable bytes, a request's header, and cuts them off. False, with nothing cut,
    /// when there are fewer.
    #[inline]
    pub fn cut_header(&mut self, memory: &MemTable, buf: &mut [u8]) -> bool {
        if memory.read(&self.readable, 0, buf) < buf.len() {
            return false;
        }
        // Most drivers give the header a descriptor of its own.
        match self.readable.as_slice() {
            [only] if only.len == buf.len() => self.readable.clear(),
            _ => self.cut_readable(buf.len()),
        }
        true
    }

    fn cut_readable(&mut self, mut left: usize) {
        let mut whole = 0;
        for segment in &mut self.readable {
            let cut = left.min(segment.len);
            *segment = skip(*segment, cut);
            left -= cut;
            if segment.len > 0 {
                break;
            }
            whole += 1;
        }
        self.readable.drain(..whole);
    }

    /// Cuts the status byte off the writable bytes and returns where it is; `None` when nothing is writable.
    #[inline]
    pub fn cut_status(&mut self) -> Option<Segment> {
        let last = self.writable.last_mut()?;
        *last = take(*last, last.len - 1);
        if last.len == 0 {
            self.writable.pop();
        }
        self.status
    }

    /// Moves the readable bytes into the memory of an operation, which keeps `pin`; `spare` is an empty list to go
    /// on with, such as `Memory::into_segments` returned. `None` when they are not memory of this table.
    #[inline]
    pub fn take_readable(&mut self, pin: &MemoryPin, spare: Vec<Segment>) -> Option<Memory> {
        pin.memory_of(std::mem::replace(&mut self.readable, spare))
    }

    /// As [`Chain::take_readable`], with the writable bytes.
    #[inline]
    pub fn take_writable(&mut self, pin: &MemoryPin, spare: Vec<Segment>) -> Option<Memory> {
        pin.memory_of(std::mem::replace(&mut self.writable, spare))
    }

    /// The number of readable bytes.
    #[must_use]
    pub fn readable_len(&self) -> usize {
        self.readable.iter().map(|segment| segment.len).sum()
    }

    /// The number of writable bytes.
    #[must_use]
    pub fn writable_len(&self) -> usize {
        self.writable.iter().map(|segment| segment.len).sum()
    }

    #[inline]
    fn begin(&mut self, head: u16) {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        self.status = None;
    }
}

/// What a chain is read from.
pub(super) struct Source<'a> {
    pub table: DescTable,
    pub memory: &'a MemTable,
    pub indirect: bool,
}

/// What is known halfway along a chain.
struct Walk<'a> {
    chain: &'a mut Chain,
    last_region: &'a mut usize,
    total: u64,
    /// The first thing found wrong; the walk goes on to find the status.
    error: Option<ChainError>,
    last_writable: Option<(u64, u32)>,
}

impl Source<'_> {
    /// Follows the chain from `head` and fills `chain`.
    ///
    /// # Errors
    /// What is wrong with it. If its end was found and its last writable byte is in guest memory, `chain` has a
    /// status to report that to; never any segments.
    #[inline]
    pub(super) fn walk(&self, head: u16, chain: &mut Chain, last_region: &mut usize) -> Result<(), ChainError> {
        chain.begin(head);
        let mut walk = Walk { chain, last_region, total: 0, error: None, last_writable: None };
        let followed = self.follow(head, &mut walk);
        let Walk { chain, error, last_writable, .. } = walk;
        let last_byte = |(addr, len): (u64, u32)| self.memory.pieces(addr, u64::from(len)).last().flatten();
        match (followed, error) {
            (Ok(()), None) => {
                chain.status = chain.writable.last().map(|last| skip(*last, last.len - 1));
                Ok(())
            }
            (Ok(()), Some(error)) => {
                chain.readable.clear();
                chain.writable.clear();
                chain.status = last_writable.and_then(last_byte).map(|last| skip(last, last.len - 1));
                Err(error)
            }
            (Err(error), _) => {
                chain.readable.clear();
                chain.writable.clear();
                Err(error)
            }
        }
    }

    /// Visits every descriptor. An error means that the end of the chain cannot be found.
    #[inline]
    fn follow(&self, head: u16, walk: &mut Walk<'_>) -> Result<(), ChainError> {
        let (mut table, mut index, mut inside_indirect) = (self.table, head, false);
        let mut left = table.len().min(MAX_CHAIN_LEN);
        loop {
            // SAFETY: the ring's table and, through `self.memory`, every indirect one are mapped while `self` lives.
            let desc = unsafe { table.get(index) }.ok_or(ChainError::NextOutOfRange(index))?;
            left = left.checked_sub(1).ok_or(ChainError::Loop)?;
            if has(desc, VRING_DESC_F_INDIRECT) {
                if inside_indirect {
                    return Err(ChainError::NestedIndirect);
                }
                table = self.indirect_table(desc, walk.last_region)?;
                (index, left, inside_indirect) = (0, table.len().min(MAX_CHAIN_LEN), true);
                continue;
            }
            walk.add(desc, self.memory);
            if !has(desc, VRING_DESC_F_NEXT) {
                return Ok(());
            }
            index = desc.next;
        }
    }

    /// The table that `desc` refers to. Its WRITE flag means nothing (section 2.7.5.3.2), nor does NEXT beside it.
    fn indirect_table(&self, desc: Desc, last_region: &mut usize) -> Result<DescTable, ChainError> {
        if !self.indirect {
            return Err(ChainError::IndirectNotNegotiated);
        }
        if desc.len == 0 || !u64::from(desc.len).is_multiple_of(DESC_LEN) {
            return Err(ChainError::IndirectLength(desc.len));
        }
        DescTable::indirect(self.memory, last_region, desc.addr, desc.len)
            .ok_or(ChainError::IndirectNotMapped(desc.addr))
    }
}

impl Walk<'_> {
    /// Takes a descriptor that stands for a buffer.
    #[inline]
    fn add(&mut self, desc: Desc, memory: &MemTable) {
        let writable = has(desc, VRING_DESC_F_WRITE);
        self.total += u64::from(desc.len);
        if writable {
            self.last_writable = Some((desc.addr, desc.len));
        } else if self.last_writable.is_some() {
            self.fail(ChainError::ReadableAfterWritable);
        }
        if desc.len == 0 {
            self.fail(ChainError::ZeroLength);
        }
        if self.total > u64::from(u32::MAX) {
            self.fail(ChainError::TooManyBytes);
        }
        let list = if writable { &mut self.chain.writable } else { &mut self.chain.readable };
        if let Some(host) = memory.translate_near(self.last_region, desc.addr, u64::from(desc.len)) {
            list.push(Segment { start: host, len: desc.len as usize });
            return;
        }
        for piece in memory.pieces(desc.addr, u64::from(desc.len)) {
            match piece {
                Some(piece) => list.push(piece),
                None => return self.fail(ChainError::NotMapped(desc.addr)),
            }
        }
    }

    #[cold]
    fn fail(&mut self, error: ChainError) {
        self.error.get_or_insert(error);
    }
}

#[inline]
fn has(desc: Desc, flag: u32) -> bool {
    u32::from(desc.flags) & flag != 0
}
