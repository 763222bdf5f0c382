//! The copies under way: each a task that reads, writes and reports.

use super::flow::Flow;
use crate::event::Operation;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use tidemark_backend::error::IoError;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::copy_before_write::{CopyBeforeWrite, PIECE_MAX};
use tidemark_backend::node::{Kind, Request, Root};
use tidemark_backend::reactor::Handle;

/// Buffers kept for the next copies.
const SPARE_MAX: usize = 64;

/// What the copies of one job share.
pub(super) struct Crew {
    copy: Arc<CopyBeforeWrite>,
    target: Rc<Root>,
    /// To the source, for discards of what was copied.
    discarding: Option<Rc<Root>>,
    flow: RefCell<Flow>,
    busy: Cell<usize>,
    failures: RefCell<Vec<(Operation, IoError)>>,
    spare: RefCell<Vec<Buf>>,
    waiting: RefCell<Option<Waker>>,
}

/// What a copy failed at, and why.
type Failed = (Operation, IoError);

impl Crew {
    pub(super) fn new(
        copy: &Arc<CopyBeforeWrite>,
        target: &Rc<Root>,
        discarding: Option<Rc<Root>>,
        flow: Flow,
    ) -> Rc<Self> {
        Rc::new(Self {
            copy: copy.clone(),
            target: target.clone(),
            discarding,
            flow: RefCell::new(flow),
            busy: Cell::default(),
            failures: RefCell::default(),
            spare: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy.get() == 0
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.failures.borrow().is_empty()
    }

    pub(super) fn take_failures(&self) -> Vec<Failed> {
        std::mem::take(&mut self.failures.borrow_mut())
    }

    /// Waits until one more copy may start.
    pub(super) async fn room(&self) {
        self.until(|busy| busy < self.flow.borrow().window()).await;
    }

    /// Waits until one of the copies under way has ended.
    pub(super) async fn one_done(&self) {
        let before = self.busy.get();
        self.until(|busy| busy < before).await;
    }

    /// Waits until none is under way.
    pub(super) async fn all_done(&self) {
        self.until(|busy| busy == 0).await;
    }

    async fn until(&self, holds: impl Fn(usize) -> bool) {
        std::future::poll_fn(|cx| {
            if holds(self.busy.get()) {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Starts the copy of a claimed run; `hole` says that it looked like one before it was claimed.
    pub(super) fn start(self: &Rc<Self>, io: &Handle, run: Range<u64>, hole: bool) {
        self.busy.set(self.busy.get() + 1);
        let (crew, handle) = (self.clone(), io.clone());
        io.spawn(async move {
            Claimed { crew, run }.work(&handle, hole).await;
        });
    }

    /// The largest hole to copy in one go, in bytes.
    pub(super) fn hole(&self) -> u64 {
        self.flow.borrow().hole()
    }

    fn buffer(&self, len: u64) -> Buf {
        let spare = self.spare.borrow_mut().pop();
        spare.filter(|buf| buf.as_slice().len() as u64 == len).unwrap_or_else(|| Buf::new(byte_count(len)))
    }

    fn keep(&self, buf: Option<Buf>) {
        let mut spare = self.spare.borrow_mut();
        if let Some(buf) = buf
            && buf.as_slice().len() as u64 == PIECE_MAX
            && spare.len() < SPARE_MAX
        {
            spare.push(buf);
        }
    }
}

/// A run that is ours to copy; what is done of it is taken off its beginning. The rest is given back when dropped,
/// however that comes about.
struct Claimed {
    crew: Rc<Crew>,
    run: Range<u64>,
}

impl Claimed {
    /// Copies it; what went wrong is with the crew.
    async fn work(mut self, io: &Handle, hole: bool) {
        let result = match hole {
            true => self.zero(io).await,
            false => self.copy_all(io).await,
        };
        if let Err(failed) = result {
            self.crew.failures.borrow_mut().push(failed);
        }
    }

    /// All before `end` is copied: writes that wait for it go on.
    async fn done(&mut self, io: &Handle, end: u64) {
        let chunk = self.crew.copy.map().chunk().bytes();
        let end = if end < self.run.end { end - end % chunk } else { end };
        if end > self.run.start {
            let done = self.run.start..end;
            self.discard(io, done.clone()).await;
            self.crew.copy.settle(done, true);
            self.run.start = end;
        }
    }

    /// Discards from the source what was copied, if that is wanted, while no write can come to it: writes wait for the
    /// run. A discard that fails costs nothing but space.
    async fn discard(&self, io: &Handle, done: Range<u64>) {
        if let Some(root) = &self.crew.discarding {
            let result = root.discard_copied(io, &self.crew.copy, done).await;
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
        let started = io.read_clock();
        let (offset, len) = (run.start, run.end - run.start);
        let read = Request { kind: Kind::Read, fua: false, offset, len, memory: Memory::from(self.crew.buffer(len)) };
        let (memory, result) = self.crew.copy.source().handle(io, read).await;
        result.map_err(|error| (Operation::Read, error))?;
        // The memory that comes back of a short transfer is what was left of it.
        let memory = memory.into_buf().map(Memory::from).ok_or((Operation::Read, IoError::Io))?;
        let write = Request { kind: Kind::Write, fua: false, offset, len, memory };
        let (memory, result) = self.crew.target.handle(io, write).await;
        self.crew.keep(memory.into_buf());
        self.crew.flow.borrow_mut().took(len, io.read_clock().saturating_sub(started));
        result.map_err(|error| (Operation::Write, error))
    }

    /// Looks again, now that no write can come before; zeroes what is a hole, copies what is not.
    async fn zero(&mut self, io: &Handle) -> Result<(), Failed> {
        let mut at = self.run.start;
        while at < self.run.end {
            self.done(io, at).await;
            let left = self.run.end - at;
            let found = self.crew.copy.source().extent(io, at, left).await;
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
            let (_, result) = self.crew.target.handle(io, zero).await;
            self.crew.flow.borrow_mut().zeroed(end - at, io.read_clock().saturating_sub(started));
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
            self.crew.copy.settle(self.run.clone(), false);
        }
        self.crew.busy.set(self.crew.busy.get() - 1);
        if let Some(waker) = self.crew.waiting.borrow_mut().take() {
            waker.wake();
        }
    }
}
