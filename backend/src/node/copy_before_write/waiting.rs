//! Waiting for chunks: until something has changed about them, or patience is at its end. Knows no copies, only their
//! states. Whoever has stopped waiting is in no list any more, however long a target stays dead.

use super::copying::Failure;
use super::{CopyBeforeWrite, MEMORY_MAX, Phase};
use crate::node::Root;
use crate::reactor::Handle;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use tidemark_cbt::{ChunkState, Waiters};

/// How long a write goes on waiting once its queue is to end.
const HURRY_NS: u64 = 2_000_000_000;
/// A queue that is told to end has no way to tell who waits: they look so often.
const LOOK_NS: u64 = HURRY_NS / 4;

/// How long one write waits for all that it needs together.
pub(super) struct Patience<'a> {
    waiting: &'a Root,
    deadline: u64,
    hurried: bool,
}

impl<'a> Patience<'a> {
    /// For `timeout_ns` from now on (0 is for ever), less once `waiting` is to end.
    pub(super) fn new(io: &Handle, timeout_ns: u64, waiting: &'a Root) -> Self {
        let deadline = if timeout_ns == 0 { u64::MAX } else { io.read_clock().saturating_add(timeout_ns) };
        Self { waiting, deadline, hurried: false }
    }

    fn deadline(&mut self, io: &Handle) -> u64 {
        if self.waiting.is_hurried() && !std::mem::replace(&mut self.hurried, true) {
            self.deadline = self.deadline.min(io.read_clock().saturating_add(HURRY_NS));
        }
        self.deadline
    }
}

/// A place in the lists of waiters, given up when dropped.
struct Place<'a> {
    waiters: &'a Waiters<Waker>,
    taken: Option<(u64, Waker)>,
}

impl Place<'_> {
    fn take(&mut self, chunk: u64, waker: &Waker) {
        self.leave();
        self.taken = Some((chunk, waker.clone()));
        self.waiters.add(chunk, waker.clone());
    }

    fn leave(&mut self) {
        if let Some((chunk, waker)) = self.taken.take() {
            self.waiters.remove(chunk, |other| other.will_wake(&waker));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl CopyBeforeWrite {
    /// Waits until something has changed about the range; false if it takes too long.
    pub(super) async fn changed(
        &self,
        io: &Handle,
        range: Range<u64>,
        failure: &Failure,
        patience: &mut Patience<'_>,
    ) -> bool {
        let mut place = Place { waiters: &self.waiters, taken: None };
        loop {
            let deadline = patience.deadline(io);
            let mut timer = pin!(io.sleep_until(deadline.min(io.now().saturating_add(LOOK_NS))));
            let woken = std::future::poll_fn(|cx| {
                if self.may_go_on(&range, failure) {
                    return Poll::Ready(true);
                }
                let busy = self.map.first(range.clone(), ChunkState::Busy);
                place.take(busy.unwrap_or(range.start) / self.map.chunk().bytes(), cx.waker());
                let has_ended = |at| self.map.state(at) != ChunkState::Busy;
                if self.may_go_on(&range, failure) || busy.is_some_and(has_ended) {
                    return Poll::Ready(true);
                }
                timer.as_mut().poll(cx).map(|()| false)
            });
            if woken.await {
                return true;
            }
            if io.now() >= deadline {
                return self.may_go_on(&range, failure);
            }
        }
    }

    /// Whether there is something to do for a write to the range.
    fn may_go_on(&self, range: &Range<u64>, failure: &Failure) -> bool {
        let may_copy = self.phase() == Phase::Ready
            && self.memory.load(Ordering::SeqCst) < MEMORY_MAX
            && self.map.first(range.clone(), ChunkState::Owed).is_some();
        self.lets_pass(range.start, range.end - range.start) || may_copy || failure.is_set()
    }

    /// Memory that was counted is free again.
    pub(super) fn give_back(&self, bytes: u64) {
        if self.memory.fetch_sub(bytes, Ordering::SeqCst) >= MEMORY_MAX {
            // There is room again, whatever chunk somebody waits for.
            self.waiters.wake_all(Waker::wake);
        }
    }
}
