//! An operation as a future: submitted when first polled, orphaned (not cancelled, not freed) when dropped.

use super::{Handle, OWN};
use crate::error::IoError;
use crate::io::{Op, Token, byte_count};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// What a task gets back: the operation with its memory, and how it ended.
pub type Ended = (Op, Result<(), IoError>);

enum Slot {
    Free,
    Waits(Waker),
    Ended(Ended),
    /// The future is gone; the operation ends by itself.
    Orphan,
}

/// Operations of tasks, by slot.
#[derive(Default)]
pub(super) struct Waiting {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

impl Waiting {
    fn add(&mut self, waker: Waker) -> usize {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Slot::Free);
        }
        self.slots[slot] = Slot::Waits(waker);
        slot
    }

    fn release(&mut self, slot: usize) -> Slot {
        self.free.push(slot);
        std::mem::replace(&mut self.slots[slot], Slot::Free)
    }

    /// Keeps the result for the task and wakes it; an orphan's result is dropped with its memory.
    pub(super) fn finish(&mut self, token: Token, op: Op, result: Result<(), IoError>) {
        let slot = byte_count(token.0 & !OWN);
        match std::mem::replace(&mut self.slots[slot], Slot::Ended((op, result))) {
            Slot::Waits(waker) => waker.wake(),
            _ => drop(self.release(slot)),
        }
    }
}

/// See [`Handle::run`].
pub struct Operation<'a> {
    handle: &'a Handle,
    op: Option<Op>,
    slot: Option<usize>,
}

impl<'a> Operation<'a> {
    pub(super) fn new(handle: &'a Handle, op: Op) -> Self {
        Self { handle, op: Some(op), slot: None }
    }
}

impl Future for Operation<'_> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let shared = &self.handle.0;
        if let Some(op) = self.op.take() {
            let slot = shared.waiting.borrow_mut().add(cx.waker().clone());
            shared.io.borrow_mut().submit(op, Token(OWN | slot as u64));
            self.slot = Some(slot);
            return Poll::Pending;
        }
        let Some(slot) = self.slot else { return Poll::Pending };
        let mut waiting = shared.waiting.borrow_mut();
        match waiting.release(slot) {
            Slot::Ended(ended) => {
                drop(waiting);
                self.slot = None;
                Poll::Ready(ended)
            }
            _ => {
                waiting.free.pop();
                waiting.slots[slot] = Slot::Waits(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut waiting = self.handle.0.waiting.borrow_mut();
        match waiting.slots[slot] {
            Slot::Ended(_) => drop(waiting.release(slot)),
            _ => waiting.slots[slot] = Slot::Orphan,
        }
    }
}
