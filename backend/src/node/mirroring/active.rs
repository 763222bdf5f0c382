//! A request that changes source and target before it completes.
//!
//! Its bytes go through memory of ours, because a guest may change its own between the two writes. Whatever happens to it
//! in between, what it may have changed on one side only is marked before anybody else has its range.

use super::{Held, Mirroring};
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::{Kind, Node, Outcome, Request, Root};
use crate::reactor::Handle;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The most bytes that go at a time.
const PIECE_MAX: u64 = 1 << 20;
/// The most memory that the requests of one mirror take together.
const MEMORY_MAX: u64 = 64 << 20;
/// How often a request looks whether there is memory, in nanoseconds.
const LOOK_NS: u64 = 200_000;

/// A mirror that a request has its range of to itself.
pub(in crate::node) struct Active {
    mirroring: Arc<Mirroring>,
    target: Rc<Root>,
    /// Bytes from the request's offsets to those of the mirror.
    shift: u64,
    _held: Held,
}

/// Bytes that are counted as under way.
struct UnderWay<'a> {
    mirroring: &'a Mirroring,
    bytes: u64,
}

impl<'a> UnderWay<'a> {
    async fn begin(io: &Handle, mirroring: &'a Mirroring, bytes: u64) -> Self {
        loop {
            let before = mirroring.under_way.fetch_add(bytes, Ordering::AcqRel);
            let counted = Self { mirroring, bytes };
            if before == 0 || before + bytes <= MEMORY_MAX {
                return counted;
            }
            drop(counted);
            io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.mirroring.under_way.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A range that may differ between the two until this says that it does not.
struct Torn<'a> {
    mirroring: &'a Mirroring,
    range: Range<u64>,
}

impl Torn<'_> {
    /// The source has refused: the guest is told of that, and the target gets what the source has later.
    fn on_source(self, error: IoError) -> Result<(), IoError> {
        drop(self);
        Err(error)
    }

    /// How it ended on the target.
    fn on_target(mut self, result: Result<(), IoError>) -> Result<(), IoError> {
        let range = std::mem::take(&mut self.range);
        match result {
            Ok(()) => {
                self.mirroring.done(range);
                Ok(())
            }
            Err(error) => self.mirroring.fail(range, error),
        }
    }
}

impl Drop for Torn<'_> {
    fn drop(&mut self) {
        if !self.range.is_empty() {
            self.mirroring.mark(self.range.start, self.range.end - self.range.start);
        }
    }
}

impl Active {
    /// Waits until the request has its chunks to itself.
    pub(in crate::node) async fn begin(
        mirroring: &Arc<Mirroring>,
        target: &Rc<Root>,
        request: &Request,
        shift: u64,
    ) -> Self {
        let start = request.offset.saturating_add(shift);
        let held = mirroring.hold_range(start..start.saturating_add(request.len)).await;
        Self { mirroring: mirroring.clone(), target: target.clone(), shift, _held: held }
    }

    /// Which mirror.
    pub(in crate::node) fn mirroring(&self) -> &Arc<Mirroring> {
        &self.mirroring
    }

    /// Runs a stamped request on `source` and then on the target.
    pub(in crate::node) async fn handle(&self, io: &Handle, source: &Node, mut request: Request) -> Outcome {
        let result = match request.kind {
            Kind::Write => self.write(io, source, &request).await,
            _ => {
                let _counted = UnderWay::begin(io, &self.mirroring, 0).await;
                let memory = std::mem::replace(&mut request.memory, Memory::empty());
                let result = self.change(io, source, &request).await;
                request.memory = memory;
                result
            }
        };
        (request.memory, result)
    }

    fn torn(&self, offset: u64, len: u64) -> Torn<'_> {
        let start = offset.saturating_add(self.shift);
        Torn { mirroring: &self.mirroring, range: start..start.saturating_add(len) }
    }

    async fn write(&self, io: &Handle, source: &Node, request: &Request) -> Result<(), IoError> {
        let mut done = 0;
        while done < request.len {
            let len = (request.len - done).min(PIECE_MAX);
            let _counted = UnderWay::begin(io, &self.mirroring, len).await;
            let mut buf = Buf::new(byte_count(len));
            request.memory.copy_to(done, buf.as_mut_slice());
            let piece = |offset, memory| Request { kind: Kind::Write, fua: request.fua, offset, len, memory };
            let offset = request.offset + done;
            let torn = self.torn(offset, len);
            let (memory, result) = source.handle(io, piece(offset, Memory::from(buf))).await;
            // The memory that comes back of a short transfer is what was left of it.
            let buf = match (memory.into_buf(), result) {
                (Some(buf), Ok(())) => buf,
                (_, result) => return torn.on_source(result.err().unwrap_or(IoError::Io)),
            };
            let copy = piece(offset.saturating_add(self.shift), Memory::from(buf));
            torn.on_target(Box::pin(self.target.handle(io, copy)).await.1)?;
            done += len;
        }
        Ok(())
    }

    /// Zeroes or discards. What a discard has left is up to the source: the target reads the same afterwards.
    async fn change(&self, io: &Handle, source: &Node, request: &Request) -> Result<(), IoError> {
        let Request { kind, fua, offset, len, .. } = *request;
        if kind == Kind::Discard && self.mirroring.drops_discards() {
            return Ok(());
        }
        let torn = self.torn(offset, len);
        if let (_, Err(error)) = source.handle(io, Request { kind, fua, offset, len, memory: Memory::empty() }).await {
            return torn.on_source(error);
        }
        let result = match kind {
            Kind::Discard => self.bring(io, source, offset, len).await,
            _ => self.zero(io, (offset, len), fua, kind == Kind::Zero { unmap: true }).await,
        };
        torn.on_target(result)
    }

    async fn zero(&self, io: &Handle, (offset, len): (u64, u64), fua: bool, unmap: bool) -> Result<(), IoError> {
        let (kind, offset) = (Kind::Zero { unmap: unmap && self.mirroring.unmap }, offset.saturating_add(self.shift));
        let zero = Request { kind, fua, offset, len, memory: Memory::empty() };
        Box::pin(self.target.handle(io, zero)).await.1
    }

    /// Has the target read what the source reads.
    async fn bring(&self, io: &Handle, source: &Node, offset: u64, len: u64) -> Result<(), IoError> {
        let (mut at, end) = (offset, offset.saturating_add(len));
        while at < end {
            let (found, data) = source.extent(io, at, end - at).await?;
            let found = found.clamp(1, end - at);
            let len = if data { found.min(PIECE_MAX) } else { found };
            match data {
                false => self.zero(io, (at, len), false, true).await?,
                true => {
                    let memory = Memory::from(Buf::new(byte_count(len)));
                    let read = Request { kind: Kind::Read, fua: false, offset: at, len, memory };
                    let (memory, result) = source.handle(io, read).await;
                    result?;
                    let memory = memory.into_buf().map(Memory::from).ok_or(IoError::Io)?;
                    let offset = at.saturating_add(self.shift);
                    let write = Request { kind: Kind::Write, fua: false, offset, len, memory };
                    Box::pin(self.target.handle(io, write)).await.1?;
                }
            }
            at += len;
        }
        Ok(())
    }
}
