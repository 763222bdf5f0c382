//! Copies chunks: claims, reads, writes, and says how it ended.

use super::{CopyBeforeWrite, MEMORY_MAX, PIECE_MAX};
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::{Kind, Request, Root};
use crate::reactor::Handle;
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
struct Claimed<'a> {
    copy: &'a CopyBeforeWrite,
    run: Range<u64>,
    copied: bool,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let len = self.run.end - self.run.start;
        let before = self.copy.memory.fetch_sub(len, Ordering::SeqCst);
        self.copy.settle(self.run.clone(), self.copied);
        if before >= MEMORY_MAX {
            // There is room again, whatever chunk somebody waits for.
            self.copy.waiters.wake_all(Waker::wake);
        }
    }
}

impl CopyBeforeWrite {
    /// Starts copies of what is owed in the range, as far as memory allows; neighbours go together.
    pub(super) fn copy_owed(self: &Arc<Self>, io: &Handle, target: &Rc<Root>, range: Range<u64>, failure: &Failure) {
        let range = range.start..range.end.min(self.map.len());
        let mut from = range.start;
        while from < range.end && self.memory.load(Ordering::SeqCst) < MEMORY_MAX {
            let Some(run) = self.map.claim(from, range.end - from, PIECE_MAX) else { return };
            from = run.end;
            self.memory.fetch_add(run.end - run.start, Ordering::SeqCst);
            let (copy, io, target, failure) = (self.clone(), io.clone(), target.clone(), failure.clone());
            io.clone().spawn(async move { copy.copy_for_write(&io, &target, run, &failure).await });
        }
    }

    async fn copy_for_write(&self, io: &Handle, target: &Root, run: Range<u64>, failure: &Failure) {
        let len = run.end - run.start;
        let mut claimed = Claimed { copy: self, run: run.clone(), copied: false };
        match self.copy(io, target, run, Buf::new(byte_count(len))).await.1 {
            Ok(()) => {
                claimed.copied = true;
                self.copies.fetch_add(1, Ordering::Relaxed);
                self.copied.fetch_add(len, Ordering::Relaxed);
            }
            Err(error) => failure.0.set(Some(error)),
        }
    }

    /// Copies a claimed run through `buf`, which is as long as the run, and gives it back.
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
        let (offset, len) = (run.start, run.end - run.start);
        let read = Request { kind: Kind::Read, fua: false, offset, len, memory: Memory::from(buf) };
        let (memory, result) = self.source.handle(io, read).await;
        if result.is_err() {
            return (memory.into_buf(), result);
        }
        let write = Request { kind: Kind::Write, fua: false, offset, len, memory };
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
