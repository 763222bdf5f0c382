//! `align`: requests that are not whole blocks. Reads read whole blocks; writes and zeroes read the rest of theirs first,
//! and no two of them do so in one block at a time; discards leave alone what they do not have all of.

use super::BlkDebug;
use crate::error::{GraphError, IoError};
use crate::io::{Buf, Memory, byte_count};
use crate::node::{Kind, Outcome, Request};
use crate::reactor::Handle;
use std::ops::Range;

/// The alignment in effect: what was asked for, and what the node below needs.
pub(super) fn alignment(asked: u64, below: u32) -> Result<u32, GraphError> {
    let refuse = || GraphError::Options(format!("Cannot meet constraints with align {asked}"));
    let aligned = u32::try_from(asked.max(u64::from(below))).map_err(|_| refuse())?;
    if aligned.is_power_of_two() && i32::try_from(aligned).is_ok() { Ok(aligned) } else { Err(refuse()) }
}

impl BlkDebug {
    /// Whether a request is whole blocks, as far as the disk has whole ones.
    pub(super) fn is_aligned(&self, request: &Request) -> bool {
        let range = request.offset..request.offset + request.len;
        request.kind == Kind::Flush || self.blocks(&range) == range
    }

    /// The blocks that a range touches; the last one of the disk may be shorter.
    fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        let align = u64::from(self.alignment);
        let end = range.end.checked_next_multiple_of(align).unwrap_or(u64::MAX);
        range.start / align * align..end.min(self.child().length()).max(range.end)
    }

    /// A request that has parts of blocks.
    pub(super) async fn handle_parts(&self, io: &Handle, mut request: Request) -> Outcome {
        let range = request.offset..request.offset + request.len;
        let result = match request.kind {
            Kind::Read => self.read_parts(io, range, &mut request.memory).await,
            Kind::Write => self.write_parts(io, range, request.fua, |at, buf| request.memory.copy_to(at, buf)).await,
            Kind::Zero { .. } => self.write_parts(io, range, request.fua, |_, buf| buf.fill(0)).await,
            Kind::Discard => self.discard_whole(io, range, request.fua).await,
            Kind::Flush => self.child().handle(io, Request { memory: Memory::empty(), ..request }).await.1,
        };
        (request.memory, result)
    }

    async fn read_parts(&self, io: &Handle, range: Range<u64>, memory: &mut Memory) -> Result<(), IoError> {
        let blocks = self.blocks(&range);
        let buf = self.read_blocks(io, blocks.clone()).await?;
        let skip = byte_count(range.start - blocks.start);
        memory.copy_from(0, &buf.as_slice()[skip..skip + byte_count(range.end - range.start)]);
        Ok(())
    }

    /// Writes whole blocks: what they hold, with the range as `fill` makes it.
    async fn write_parts(
        &self,
        io: &Handle,
        range: Range<u64>,
        fua: bool,
        mut fill: impl FnMut(u64, &mut [u8]),
    ) -> Result<(), IoError> {
        let blocks = self.blocks(&range);
        let _held = self.ranges.lock(blocks.clone()).await;
        let mut buf = self.read_around(io, &blocks, &range).await?;
        let skip = byte_count(range.start - blocks.start);
        fill(0, &mut buf.as_mut_slice()[skip..skip + byte_count(range.end - range.start)]);
        let (offset, len) = (blocks.start, blocks.end - blocks.start);
        self.handle_blocks(io, Request { kind: Kind::Write, fua, offset, len, memory: Memory::from(buf) }).await.1
    }

    /// What the blocks hold around the range; the range itself is left zero where nothing else is in its blocks.
    async fn read_around(&self, io: &Handle, blocks: &Range<u64>, range: &Range<u64>) -> Result<Buf, IoError> {
        let first = self.blocks(&(range.start..range.start + 1));
        let last = self.blocks(&(range.end - 1..range.end));
        let mut buf = Buf::new(byte_count(blocks.end - blocks.start));
        if first.start < range.start {
            self.event("pwritev_rmw_head");
            self.read_into(io, &mut buf, blocks.start, first.clone()).await?;
            self.event("pwritev_rmw_after_head");
        }
        if last.end > range.end && (last != first || first.start == range.start) {
            self.event("pwritev_rmw_tail");
            self.read_into(io, &mut buf, blocks.start, last).await?;
            self.event("pwritev_rmw_after_tail");
        }
        Ok(buf)
    }

    async fn read_into(&self, io: &Handle, buf: &mut Buf, start: u64, block: Range<u64>) -> Result<(), IoError> {
        let read = self.read_blocks(io, block.clone()).await?;
        buf.as_mut_slice()[byte_count(block.start - start)..byte_count(block.end - start)]
            .copy_from_slice(read.as_slice());
        Ok(())
    }

    async fn read_blocks(&self, io: &Handle, blocks: Range<u64>) -> Result<Buf, IoError> {
        let (offset, len) = (blocks.start, blocks.end - blocks.start);
        let memory = Memory::from(Buf::new(byte_count(len)));
        let (memory, result) =
            self.handle_blocks(io, Request { kind: Kind::Read, fua: false, offset, len, memory }).await;
        result?;
        memory.into_buf().ok_or(IoError::Io)
    }

    async fn discard_whole(&self, io: &Handle, range: Range<u64>, fua: bool) -> Result<(), IoError> {
        let align = u64::from(self.alignment);
        let offset = range.start.next_multiple_of(align);
        let end = if range.end == self.child().length() { range.end } else { range.end / align * align };
        let Some(len) = end.checked_sub(offset).filter(|len| *len > 0) else { return Ok(()) };
        let discard = Request { kind: Kind::Discard, fua, offset, len, memory: Memory::empty() };
        self.handle_blocks(io, discard).await.1
    }
}
