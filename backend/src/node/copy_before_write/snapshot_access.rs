//! Driver `snapshot-access`: reads the point in time that a `copy-before-write` filter keeps.
//!
//! Readers are optimistic: what is not copied is read from the source, and then looked at again; had it been copied
//! meanwhile, a write may have come before the read, and the copy is read instead. Writes never wait for readers.

use super::{CopyBeforeWrite, PIECE_MAX, Phase};
use crate::error::{GraphError, IoError};
use crate::io::{Buf, Memory, byte_count};
use crate::node::{Driver, Kind, Node, Outcome, Request, Stake, Staked, Status};
use crate::reactor::Handle;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_cbt::ChunkState;

/// A window into the past.
pub struct SnapshotAccess {
    filter: Arc<Node>,
    copy: Arc<CopyBeforeWrite>,
    /// As long as it is open, nobody writes around the filter.
    stake: Mutex<Option<Staked>>,
}

/// Where a range of the past is.
struct Place {
    range: Range<u64>,
    /// On the target, not on the source.
    copied: bool,
}

impl SnapshotAccess {
    /// The reader `name` of the filter `filter`.
    ///
    /// # Errors
    /// The node is no such filter; somebody writes around it.
    pub fn new(name: &str, filter: &Arc<Node>) -> Result<Self, GraphError> {
        match filter.driver() {
            Driver::CopyBeforeWrite(below) => {
                let stake = Mutex::new(Some(filter.stake(Stake::of_reader(name))?));
                Ok(Self { filter: filter.clone(), copy: below.copy().clone(), stake })
            }
            _ => Err(GraphError::Options(
                "Error getting snapshot access: the node does not provide it: Operation not supported".into(),
            )),
        }
    }

    /// It is closed, though somebody may still look at it.
    pub(in crate::node) fn let_go(&self) {
        self.stake.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The filter below.
    pub fn child(&self) -> &Arc<Node> {
        &self.filter
    }

    pub(in crate::node) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        match request.kind {
            Kind::Read => self.read(io, request).await,
            Kind::Discard => {
                let result = self.forget(io, request.offset, request.len).await;
                (request.memory, result)
            }
            Kind::Flush => (request.memory, Ok(())),
            Kind::Write | Kind::Zero { .. } => (request.memory, Err(IoError::Unsupported)),
        }
    }

    async fn read(&self, io: &Handle, mut request: Request) -> Outcome {
        if !self.may_read(&(request.offset..request.offset + request.len)) {
            return (request.memory, Err(IoError::Permission));
        }
        let (start, mut done) = (request.offset, 0);
        while done < request.len {
            let limit = request.len.min(done + PIECE_MAX);
            let place = self.place(start + done..start + limit);
            let len = place.range.end - place.range.start;
            let buf = Memory::from(Buf::new(byte_count(len)));
            match self.read_piece(io, place, buf).await {
                (memory, Ok(true)) => {
                    if let Some(buf) = memory.into_buf() {
                        request.memory.copy_from(done, &buf.as_slice()[..byte_count(len)]);
                    }
                    done += len;
                }
                (_, Ok(false)) => {}
                (_, Err(error)) => return (request.memory, Err(error)),
            }
        }
        (request.memory, Ok(()))
    }

    /// What is known of the past from `offset` on, of at most `len` bytes.
    pub(in crate::node) async fn status(&self, io: &Handle, offset: u64, len: u64) -> Result<Status, IoError> {
        if !self.may_read(&(offset..offset + len)) {
            return Err(IoError::Permission);
        }
        loop {
            let place = self.place(offset..offset + len);
            let status = self.node(&place).status(io, offset, place.range.end - offset).await?;
            if self.is_still(&Place { range: offset..offset + status.len, ..place })? {
                return Ok(status);
            }
        }
    }

    /// Where the beginning of the range is, as far as it is there.
    fn place(&self, range: Range<u64>) -> Place {
        let first = |state| self.copy.map.first(range.clone(), state);
        let copied = self.copy.map.state(range.start) == ChunkState::Done;
        let end = match copied {
            true => [first(ChunkState::Owed), first(ChunkState::Busy)].into_iter().flatten().min(),
            // It may have been copied since the look above: that is seen when it has been read.
            false => first(ChunkState::Done).filter(|done| *done > range.start),
        };
        Place { range: range.start..end.unwrap_or(range.end), copied }
    }

    fn node(&self, place: &Place) -> &Arc<Node> {
        if place.copied { self.copy.target() } else { self.copy.source() }
    }

    /// Whether what was looked at in its place was still there. What was copied stays copied.
    fn is_still(&self, place: &Place) -> Result<bool, IoError> {
        // What was read was read before the states below are looked at.
        fence(Ordering::SeqCst);
        if self.copy.is_broken() || self.copy.phase() == Phase::Ended {
            // As with QEMU, what is lost is refused like what was never there.
            return Err(IoError::Permission);
        }
        Ok(place.copied || self.copy.map.first(place.range.clone(), ChunkState::Done).is_none())
    }

    fn may_read(&self, range: &Range<u64>) -> bool {
        let access = self.copy.access.as_ref();
        access.is_none_or(|access| access.marks_all(range.start, range.end - range.start))
    }

    /// Reads a piece of one place. `Ok(false)` if it was copied while it was read from the source: read again.
    async fn read_piece(&self, io: &Handle, place: Place, memory: Memory) -> (Memory, Result<bool, IoError>) {
        let (offset, len) = (place.range.start, place.range.end - place.range.start);
        let read = Request { kind: Kind::Read, fua: false, offset, len, memory };
        let (memory, result) = self.node(&place).handle(io, read).await;
        match self.is_still(&place) {
            Ok(still) => (memory, result.map(|()| still)),
            Err(error) => (memory, Err(error)),
        }
    }

    /// The reader has what it needs of a range: of the chunks that lie in it wholly nothing is preserved any longer,
    /// nothing can be read, and the copy is dropped.
    async fn forget(&self, io: &Handle, offset: u64, len: u64) -> Result<(), IoError> {
        let access = &self.copy.access;
        let unit = access.as_ref().map_or(1, |access| access.granularity().bytes()).max(self.copy.map.chunk().bytes());
        let (start, end) = (offset.next_multiple_of(unit), offset + len);
        let end = if end == self.copy.map.len() { end } else { end - end % unit };
        if start >= end {
            return Ok(());
        }
        let (offset, len) = (start, end - start);
        if let Some(access) = access {
            access.clear_range(offset, len);
        }
        self.copy.map.drop_owed(offset, len);
        let discard = Request { kind: Kind::Discard, fua: false, offset, len, memory: Memory::empty() };
        self.copy.target().handle(io, discard).await.1
    }
}
