//! Work under way on a reactor, several at a time, so that storage need not wait for us: what comes of it comes in the
//! order in which it was begun.
//!
//! Knows no images. Whoever began some waits for all of it, also after an error ([`Window::drain`]): nodes are not closed
//! over what is under way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};
use tidemark_backend::reactor::Handle;

/// Pieces of work under way at a time, if nothing else is said; each holds [`PIECE`](super::layer::PIECE) bytes at most.
const MAX: usize = 8;

/// Work under way.
pub struct Window<T> {
    slots: VecDeque<Rc<Slot<T>>>,
    max: usize,
}

struct Slot<T> {
    result: Cell<Option<T>>,
    waiting: Cell<Option<Waker>>,
}

impl<T: 'static> Window<T> {
    /// Nothing.
    pub fn new() -> Self {
        Self::of(MAX)
    }

    /// Nothing, and so many at a time.
    pub fn of(max: usize) -> Self {
        Self { slots: VecDeque::with_capacity(max), max }
    }

    /// Whether something has to end before more begins.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= self.max.max(1)
    }

    /// So many at a time from now on.
    pub fn limit(&mut self, max: usize) {
        self.max = max;
    }

    /// Begins one more.
    pub fn begin(&mut self, io: &Handle, task: impl Future<Output = T> + 'static) {
        let slot = Rc::new(Slot { result: Cell::new(None), waiting: Cell::new(None) });
        self.slots.push_back(slot.clone());
        io.spawn(async move {
            slot.result.set(Some(task.await));
            if let Some(waker) = slot.waiting.take() {
                waker.wake();
            }
        });
    }

    /// What came of the oldest; `None` if nothing is under way.
    pub async fn next(&mut self) -> Option<T> {
        let slot = self.slots.front()?;
        let result = std::future::poll_fn(|cx| match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waiting.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        });
        let result = result.await;
        self.slots.pop_front();
        Some(result)
    }
}

impl<E: 'static> Window<Result<(), E>> {
    /// Waits until there is room for one more.
    ///
    /// # Errors
    /// That of one that has ended.
    pub async fn room(&mut self) -> Result<(), E> {
        while self.is_full() {
            self.next().await.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    /// Waits for the end of all.
    ///
    /// # Errors
    /// The first one.
    pub async fn drain(&mut self) -> Result<(), E> {
        let mut all = Ok(());
        while let Some(result) = self.next().await {
            all = all.and(result);
        }
        all
    }
}
