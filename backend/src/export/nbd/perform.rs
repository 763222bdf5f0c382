//! What is done for a request, and its reply.

use super::buffers::whole;
use super::extents::Extents;
use super::handshake::{BASE_ID, BITMAP_ID, DEPTH_ID};
use super::service::{Received, Service};
use super::status::{self, Told};
use crate::error::IoError;
use crate::io::{Memory, Op};
use crate::nbd_wire::transmission::{Command, Headers, Request, command_flags, error_number, to_wire};
use crate::node::{self, Kind, Map, Root, Stamp};
use std::ops::Range;

/// Shorter reads are not looked at for holes, unless they are one.
const SPARSE_MIN: u64 = 64 * 1024;

/// A node's request that has ended.
enum Ended {
    /// As it should.
    Done(Memory),
    /// It reads as zeroes; the memory was not filled.
    Zeroes(Memory),
    /// It needs more than one operation, and nothing was done for it.
    Scattered(node::Request),
    /// It failed.
    Failed(Memory, IoError),
}

impl Service {
    /// Does a request that may be done, and answers it.
    pub(super) async fn perform(&self, received: Received) {
        let started = self.io.now();
        let request = received.request;
        let (kind, result) = match request.command {
            Command::Read => (Some(Kind::Read), self.read(&request).await),
            Command::BlockStatus => (None, self.block_status(&received).await),
            Command::Write => (Some(Kind::Write), self.change(&request, Kind::Write, received.memory).await),
            Command::Trim => (Some(Kind::Discard), self.change(&request, Kind::Discard, Memory::empty()).await),
            Command::Flush => (Some(Kind::Flush), self.change(&request, Kind::Flush, Memory::empty()).await),
            Command::WriteZeroes => {
                let kind = Kind::Zero { unmap: request.flags & command_flags::NO_HOLE == 0 };
                (Some(kind), self.change(&request, kind, Memory::empty()).await)
            }
            // What is read ahead is the page cache's business.
            Command::Cache | Command::Disconnect | Command::Unknown(_) => {
                self.reply(&request).done().await;
                (None, Ok(()))
            }
        };
        if let Some(kind) = kind {
            let took = self.io.now().saturating_sub(started);
            self.export.stats[self.thread].count(kind, request.len, took, result.is_ok());
        }
    }

    async fn change(&self, request: &Request, kind: Kind, memory: Memory) -> Result<(), IoError> {
        let len = if kind == Kind::Flush { 0 } else { request.len };
        let offset = if kind == Kind::Flush { 0 } else { request.offset };
        let fua = kind.changes() && (self.export.writethrough || request.flags & command_flags::FUA != 0);
        if request.flags & command_flags::FAST_ZERO != 0 && !self.root.visit().zeroes_fast(offset, len) {
            self.reply(request).failed(error_number::NOTSUP, what(kind)).await;
            return Err(IoError::Unsupported);
        }
        if len == 0 && kind != Kind::Flush {
            self.reply(request).done().await;
            return Ok(());
        }
        let asked = node::Request { kind, fua, offset, len, memory };
        let (memory, result) = match self.attempt(asked).await {
            Ended::Done(memory) | Ended::Zeroes(memory) => (memory, Ok(())),
            Ended::Failed(memory, error) => (memory, Err(error)),
            Ended::Scattered(asked) => self.root.handle(&self.io, asked).await,
        };
        self.buffers.give(memory);
        match result {
            Ok(()) => self.reply(request).done().await,
            Err(error) => self.reply(request).failed(to_wire(error), what(kind)).await,
        }
        result
    }

    async fn read(&self, request: &Request) -> Result<(), IoError> {
        if request.flags & command_flags::FUA != 0 {
            let flush = node::Request { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: Memory::empty() };
            if let (_, Err(error)) = self.root.handle(&self.io, flush).await {
                self.reply(request).failed(to_wire(error), what(Kind::Flush)).await;
                return Err(error);
            }
        }
        if request.len == 0 {
            self.reply(request).data(request.offset, Memory::empty(), true).await;
            return Ok(());
        }
        let may_split = self.terms.headers >= Headers::Structured && request.flags & command_flags::DF == 0;
        let Range { start, end } = request.offset..request.offset + request.len;
        match self.attempt(self.node_read(start..end)).await {
            Ended::Zeroes(memory) if may_split => {
                self.buffers.give(memory);
                self.reply(request).zeroes(start, narrow(request.len), true).await;
                Ok(())
            }
            Ended::Scattered(asked) if may_split && request.len >= SPARSE_MIN => {
                self.buffers.give(asked.memory);
                self.read_sparse(request, start..end).await
            }
            ended => {
                let read = self.finish_read(ended, request.len).await;
                self.send_data(request, start, true, read).await
            }
        }
    }

    /// Reads a range piece by piece, and what is a hole not at all.
    async fn read_sparse(&self, request: &Request, range: Range<u64>) -> Result<(), IoError> {
        let mut at = range.start;
        while at < range.end {
            let status = match self.root.visit().status(&self.io, at, range.end - at).await {
                Ok(status) => status,
                Err(error) => {
                    let text = format!("unable to check for holes: {error}");
                    self.reply(request).failed(read_error(error), &text).await;
                    return Err(error);
                }
            };
            let end = at + status.len;
            let last = end >= range.end;
            if status.zero {
                self.reply(request).zeroes(at, narrow(status.len), last).await;
            } else {
                let ended = self.attempt(self.node_read(at..end)).await;
                let read = self.finish_read(ended, status.len).await;
                self.send_data(request, at, last, read).await?;
            }
            at = end;
        }
        Ok(())
    }

    fn node_read(&self, range: Range<u64>) -> node::Request {
        let (offset, len) = (range.start, range.end - range.start);
        node::Request { kind: Kind::Read, fua: false, offset, len, memory: self.buffers.take(len) }
    }

    /// What was read, whatever that takes.
    async fn finish_read(&self, ended: Ended, len: u64) -> node::Outcome {
        let (memory, result) = match ended {
            Ended::Done(memory) => (memory, Ok(())),
            Ended::Zeroes(mut memory) => {
                memory.fill_zero(0, len);
                (memory, Ok(()))
            }
            Ended::Failed(memory, error) => (memory, Err(error)),
            Ended::Scattered(asked) => self.root.handle(&self.io, asked).await,
        };
        (whole(memory, len), result)
    }

    async fn send_data(&self, request: &Request, at: u64, last: bool, read: node::Outcome) -> Result<(), IoError> {
        let (memory, result) = read;
        let memory = match result {
            Ok(()) => self.reply(request).data(at, memory, last).await,
            Err(error) => {
                self.reply(request).failed(read_error(error), what(Kind::Read)).await;
                memory
            }
        };
        self.buffers.give(memory);
        result
    }

    /// Does what needs no waiting but for one operation.
    async fn attempt(&self, request: node::Request) -> Ended {
        let (map, stamp) = {
            let section = self.root.enter();
            let map = section.map(&request);
            // What does not end here is stamped when it has all that it needs.
            let submitted = !matches!(map, Map::Task | Map::Ended(Err(_)));
            (map, if submitted { section.stamp(&request) } else { Stamp::default() })
        };
        let under_way = UnderWay { root: &self.root, stamp };
        let len = request.len;
        let ended = match map {
            Map::File { file, offset, kind } => {
                let (op, result) = self.io.run(Op { kind, file, offset, len, memory: request.memory }).await;
                match result {
                    Ok(()) => Ended::Done(op.memory),
                    Err(error) => Ended::Failed(op.memory, error),
                }
            }
            Map::Ended(Ok(())) => Ended::Done(request.memory),
            Map::Ended(Err(error)) => Ended::Failed(request.memory, error),
            Map::Zeroes => Ended::Zeroes(request.memory),
            Map::Task => Ended::Scattered(request),
        };
        drop(under_way);
        ended
    }

    async fn block_status(&self, received: &Received) -> Result<(), IoError> {
        let Received { request, contexts, .. } = received;
        let contexts = contexts.as_ref().unwrap_or(&self.terms.contexts);
        let (range, only_one) =
            (request.offset..request.offset + request.len, request.flags & command_flags::REQ_ONE != 0);
        let mut left = contexts.ids().len();
        for id in contexts.ids() {
            let mut extents = Extents::new(only_one);
            if let Err(error) = self.look(*id, range.clone(), &mut extents).await {
                self.reply(request).failed(read_error(error), "can't get block status").await;
                return Err(error);
            }
            left -= 1;
            self.reply(request).extents(*id, extents.list(), left == 0).await;
        }
        Ok(())
    }

    /// What one context says of a range.
    async fn look(&self, context: u32, range: Range<u64>, extents: &mut Extents) -> Result<(), IoError> {
        let node = self.root.visit();
        match context {
            BASE_ID => status::look(&self.io, &node, range, Told::Allocation, extents).await,
            DEPTH_ID => status::look(&self.io, &node, range, Told::Depth, extents).await,
            bitmap => {
                let place = usize::try_from(bitmap - BITMAP_ID).unwrap_or(usize::MAX);
                // The handshake gives no other numbers.
                let bitmap = self.export.bitmaps.get(place).ok_or(IoError::Invalid)?;
                extents.add_marks(bitmap.held.bits(), range);
                Ok(())
            }
        }
    }
}

/// A request that has been stamped, even if its future is dropped.
struct UnderWay<'a> {
    root: &'a Root,
    stamp: Stamp,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.root.end(self.stamp);
    }
}

/// A length of a request that has passed the check for reads.
fn narrow(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A read that is not permitted is one of what is not there: the protocol keeps its number for writes.
fn read_error(error: IoError) -> u32 {
    match error {
        IoError::Permission => error_number::INVAL,
        error => to_wire(error),
    }
}

/// What is said of a failure, in QEMU's words.
fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Flush => "flush failed",
        Kind::Discard => "discard failed",
        Kind::Read => "reading from file failed",
        Kind::Write | Kind::Zero { .. } => "writing to file failed",
    }
}
