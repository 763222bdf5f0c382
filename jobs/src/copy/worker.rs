//! The copies under way: each a task that reads, writes and reports.

use super::crew::{Crew, Failed, Member};
use super::piece::bring;
use crate::event::Operation;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_backend::io::Memory;
use tidemark_backend::node::copy_before_write::{CopyBeforeWrite, PIECE_MAX};
use tidemark_backend::node::{Kind, Request, Root};
use tidemark_backend::reactor::Handle;

/// Between what the copies of one job go.
pub(super) struct Work {
    pub(super) crew: Rc<Crew>,
    pub(super) copy: Arc<CopyBeforeWrite>,
    pub(super) target: Rc<Root>,
    /// To the source, for discards of what was copied.
    pub(super) discarding: Option<Rc<Root>>,
}

impl Work {
    /// Starts the copy of a claimed run; `hole` says that it looked like one before it was claimed.
    pub(super) fn start(self: &Rc<Self>, io: &Handle, run: Range<u64>, hole: bool) {
        let (work, member, handle) = (self.clone(), self.crew.begin(), io.clone());
        io.spawn(async move {
            Claimed { work, run, _member: member }.copy_or_zero(&handle, hole).await;
        });
    }
}

/// A run that is ours to copy; what is done of it is taken off its beginning. The rest is given back when dropped,
/// however that comes about.
struct Claimed {
    work: Rc<Work>,
    run: Range<u64>,
    _member: Member,
}

impl Claimed {
    /// Copies it; what went wrong is with the crew.
    async fn copy_or_zero(mut self, io: &Handle, hole: bool) {
        let result = match hole {
            true => self.zero(io).await,
            false => self.copy_all(io).await,
        };
        if let Err(failed) = result {
            self.work.crew.fail(failed);
        }
    }

    /// All before `end` is copied: writes that wait for it go on.
    async fn done(&mut self, io: &Handle, end: u64) {
        let chunk = self.work.copy.map().chunk().bytes();
        let end = if end < self.run.end { end - end % chunk } else { end };
        if end > self.run.start {
            let done = self.run.start..end;
            self.discard(io, done.clone()).await;
            self.work.copy.settle(done, true);
            self.run.start = end;
        }
    }

    /// Discards from the source what was copied, if that is wanted, while no write can come to it: writes wait for the
    /// run. A discard that fails costs nothing but space.
    async fn discard(&self, io: &Handle, done: Range<u64>) {
        if let Some(root) = &self.work.discarding {
            let result = root.discard_copied(io, &self.work.copy, done).await;
            if let Err(error) = result {
                tracing::debug!(node = root.node().name(), %error, "a discard of what was copied failed");
            }
        }
    }

    async fn copy_all(&mut self, io: &Handle) -> Result<(), Failed> {
        self.copy(io, self.run.clone()).await?;
        self.done(io, self.run.end).await;
        Ok(())
    }

    async fn copy(&self, io: &Handle, run: Range<u64>) -> Result<(), Failed> {
        let Work { crew, copy, target, .. } = &*self.work;
        let (started, len) = (io.read_clock(), run.end - run.start);
        let read = async |request| copy.source().handle(io, request).await;
        let brought = bring(crew, run, read, async |request| target.handle(io, request).await).await;
        crew.took(len, io.read_clock().saturating_sub(started));
        brought
    }

    /// Looks again, now that no write can come before; zeroes what is a hole, copies what is not.
    async fn zero(&mut self, io: &Handle) -> Result<(), Failed> {
        let mut at = self.run.start;
        while at < self.run.end {
            self.done(io, at).await;
            let left = self.run.end - at;
            let found = self.work.copy.source().extent(io, at, left).await;
            let (len, data) = found.map_err(|error| (Operation::Read, error))?;
            let end = at + len.clamp(1, left);
            if data {
                let end = end.min(at + PIECE_MAX);
                self.copy(io, at..end).await?;
                at = end;
                continue;
            }
            let (kind, started) = (Kind::Zero { unmap: true }, io.read_clock());
            let zero = Request { kind, fua: false, offset: at, len: end - at, memory: Memory::empty() };
            let (_, result) = self.work.target.handle(io, zero).await;
            self.work.crew.zeroed(end - at, io.read_clock().saturating_sub(started));
            result.map_err(|error| (Operation::Write, error))?;
            at = end;
        }
        self.done(io, at).await;
        Ok(())
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.run.is_empty() {
            self.work.copy.settle(self.run.clone(), false);
        }
    }
}
