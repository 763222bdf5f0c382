//! Copies chunks: claims, reads, writes, and says how it ended.

use super::{CopyBeforeWrite, MEMORY_MAX, PIECE_MAX, Phase, SPARE_MAX};
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::{Kind, Request, Root};
use crate::reactor::Handle;
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::Waker;

/// Tells a waiting write that a copy it started has failed.
#[derive(Clone, Default)]
pub(super) struct Failure(Rc<Cell<Option<IoError>>>);

impl Failure {
    pub(super) fn take(&self) -> Option<IoError> {
        self.0.take()
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.get().is_some()
    }
}

/// A run claimed for a write. Given back when dropped, however that comes about.
struct Claimed {
    copy: Arc<CopyBeforeWrite>,
    run: Range<u64>,
    copied: bool,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let len = self.run.end - self.run.start;
        self.copy.settle(self.run.clone(), self.copied);
        self.copy.give_back(len);
    }
}

impl Claimed {
    async fn copy(mut self, io: &Handle, target: &Root, failure: &Failure) {
        let (copy, len) = (self.copy.clone(), self.run.end - self.run.start);
        let (buf, result) = copy.copy(io, target, self.run.clone(), copy.buffer(len)).await;
        buf.into_iter().for_each(|buf| copy.keep(buf));
        match result {
            Ok(()) => {
                self.copied = true;
                copy.copies.fetch_add(1, Ordering::Relaxed);
                copy.copied.fetch_add(len, Ordering::Relaxed);
            }
            Err(error) => failure.0.set(Some(error)),
        }
    }
}

impl CopyBeforeWrite {
    /// Starts copies of what is owed in the range, as far as memory allows; neighbours go together.
    pub(super) fn copy_owed(self: &Arc<Self>, io: &Handle, target: &Rc<Root>, range: Range<u64>, failure: &Failure) {
        let range = range.start..range.end.min(self.map.len());
        let mut from = range.start;
        while from < range.end && self.memory.load(Ordering::SeqCst) < MEMORY_MAX {
            // Before the look at the phase: whoever ends it waits until nothing is counted here.
            self.memory.fetch_add(PIECE_MAX, Ordering::SeqCst);
            let claimed = (self.phase() == Phase::Ready).then(|| self.map.claim(from, range.end - from, PIECE_MAX));
            let Some(run) = claimed.flatten() else {
                self.give_back(PIECE_MAX);
                return;
            };
            from = run.end;
            // One chunk may be more than a piece.
            self.memory.fetch_add(run.end - run.start, Ordering::SeqCst);
            self.give_back(PIECE_MAX);
            let claimed = Claimed { copy: self.clone(), run, copied: false };
            let (io, target, failure) = (io.clone(), target.clone(), failure.clone());
            io.clone().spawn(async move { claimed.copy(&io, &target, &failure).await });
        }
    }

    /// Memory for a copy of `len` bytes, or more: used before, if there is some, because new memory costs as much as a
    /// copy.
    fn buffer(&self, len: u64) -> Buf {
        let mut spare = self.spare();
        let fits = spare.last().is_some_and(|buf| buf.as_slice().len() as u64 >= len);
        let last = if fits { spare.pop() } else { None };
        drop(spare);
        last.unwrap_or_else(|| Buf::new(byte_count(len)))
    }

    /// Keeps memory for the next copies.
    fn keep(&self, buf: Buf) {
        let mut spare = self.spare();
        if spare.len() < SPARE_MAX && buf.as_slice().len() as u64 <= PIECE_MAX {
            spare.push(buf);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Buf>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a claimed run through `buf`, which is as long as the run or longer, unless the run is left out; gives the
    /// buffer back.
    ///
    /// # Errors
    /// Why the source could not be read or the target not written. The run is still claimed: see
    /// [`CopyBeforeWrite::settle`].
    pub async fn copy(
        &self,
        io: &Handle,
        target: &Root,
        run: Range<u64>,
        buf: Buf,
    ) -> (Option<Buf>, Result<(), IoError>) {
        match self.leaves_out(io, &run).await {
            Ok(false) => {}
            result => return (Some(buf), result.map(drop)),
        }
        let (offset, len) = (run.start, run.end - run.start);
        let read = Request { kind: Kind::Read, fua: false, offset, len, memory: memory_of(buf, len) };
        let (memory, result) = self.source.handle(io, read).await;
        let buf = match (memory.into_buf(), result) {
            (Some(buf), Ok(())) => buf,
            (buf, result) => return (buf, result.and(Err(IoError::Io))),
        };
        // The memory that comes back of a short transfer is what was left of it.
        let write = Request { kind: Kind::Write, fua: false, offset, len, memory: memory_of(buf, len) };
        let (memory, result) = target.handle(io, write).await;
        (memory.into_buf(), result)
    }

    /// Says how a claimed run has ended, and wakes who waits for it.
    pub fn settle(&self, run: Range<u64>, copied: bool) {
        if copied {
            self.map.done(run.clone());
        } else {
            self.map.failed(run.clone());
        }
        let chunk = self.map.chunk().bytes();
        self.waiters.wake(run.start / chunk..run.end.div_ceil(chunk), Waker::wake);
    }
}

/// The first `len` bytes of a buffer, which is at least that long.
fn memory_of(buf: Buf, len: u64) -> Memory {
    let mut memory = Memory::from(buf);
    if memory.len() > len {
        memory.narrow(0, len);
    }
    memory
}
