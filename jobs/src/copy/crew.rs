//! Copies under way: how many there may be, what has failed, memory that is used again. Knows not what is copied.

use super::flow::Flow;
use crate::event::Operation;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};
use tidemark_backend::error::IoError;
use tidemark_backend::io::{Buf, byte_count};

/// Buffers kept for the next copies.
const SPARE_MAX: usize = 64;

/// What a copy failed at, and why.
pub(crate) type Failed = (Operation, IoError);

/// What the copies of one job share.
pub(crate) struct Crew {
    flow: RefCell<Flow>,
    busy: Cell<usize>,
    failures: RefCell<Vec<Failed>>,
    /// Bytes of most copies, and their memory.
    piece: u64,
    spare: RefCell<Vec<Buf>>,
    waiting: RefCell<Option<Waker>>,
}

/// A copy under way; over when dropped.
pub(crate) struct Member(Rc<Crew>);

impl Crew {
    /// At most so many copies at a time, most of them of `piece` bytes.
    pub(crate) fn new(max: usize, piece: u64) -> Rc<Self> {
        Rc::new(Self {
            flow: RefCell::new(Flow::new(max)),
            busy: Cell::default(),
            failures: RefCell::default(),
            piece,
            spare: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.busy.get() == 0
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failures.borrow().is_empty()
    }

    pub(crate) fn take_failures(&self) -> Vec<Failed> {
        std::mem::take(&mut self.failures.borrow_mut())
    }

    pub(crate) fn fail(&self, failed: Failed) {
        self.failures.borrow_mut().push(failed);
    }

    /// Waits until one more copy may start.
    pub(crate) async fn room(&self) {
        self.until(|busy| busy < self.flow.borrow().window()).await;
    }

    /// Waits until one of the copies under way has ended.
    pub(crate) async fn one_done(&self) {
        let before = self.busy.get();
        self.until(|busy| busy < before).await;
    }

    /// Waits until none is under way.
    pub(crate) async fn all_done(&self) {
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

    /// Counts a copy.
    pub(crate) fn begin(self: &Rc<Self>) -> Member {
        self.busy.set(self.busy.get() + 1);
        Member(self.clone())
    }

    /// The largest hole to copy in one go, in bytes.
    pub(crate) fn hole(&self) -> u64 {
        self.flow.borrow().hole()
    }

    /// A copy of `len` bytes took `time` nanoseconds.
    pub(crate) fn took(&self, len: u64, time: u64) {
        self.flow.borrow_mut().took(len, time);
    }

    /// Zeroing a hole of `len` bytes took `time` nanoseconds.
    pub(crate) fn zeroed(&self, len: u64, time: u64) {
        self.flow.borrow_mut().zeroed(len, time);
    }

    /// Memory of a copy that has ended, if there is any.
    pub(crate) fn spare(&self) -> Option<Buf> {
        self.spare.borrow_mut().pop()
    }

    /// Memory for a copy of `len` bytes.
    pub(crate) fn buffer(&self, len: u64) -> Buf {
        self.spare().filter(|buf| buf.as_slice().len() as u64 == len).unwrap_or_else(|| Buf::new(byte_count(len)))
    }

    /// Memory for the next one.
    pub(crate) fn keep(&self, buf: Option<Buf>) {
        let mut spare = self.spare.borrow_mut();
        if let Some(buf) = buf
            && buf.as_slice().len() as u64 == self.piece
            && spare.len() < SPARE_MAX
        {
            spare.push(buf);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        if let Some(waker) = self.0.waiting.borrow_mut().take() {
            waker.wake();
        }
    }
}
