//! A value that one thread makes and a task of another waits for. However the maker ends, the task learns of it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What both ends share.
struct Shared<T> {
    /// `None` until it has ended; then the value, if there is one.
    ended: Option<Option<T>>,
    waiting: Option<Waker>,
}

/// The maker's end; dropping it is to break the promise.
pub struct Ticket<T>(Arc<Mutex<Shared<T>>>);

/// The task's end: the value, or `None` if there will be none. If it is dropped the value is for nobody.
pub struct Promise<T>(Arc<Mutex<Shared<T>>>);

/// A promise, and the means to keep it.
pub fn promise<T>() -> (Ticket<T>, Promise<T>) {
    let shared = Arc::new(Mutex::new(Shared { ended: None, waiting: None }));
    (Ticket(shared.clone()), Promise(shared))
}

impl<T> Ticket<T> {
    /// Hands the value over.
    pub fn keep(self, value: T) {
        self.end(Some(value));
    }

    fn end(&self, value: Option<T>) {
        let waiting = {
            let mut shared = locked(&self.0);
            if shared.ended.is_none() {
                shared.ended = Some(value);
            }
            shared.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl<T> Future for Promise<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut shared = locked(&self.0);
        match shared.ended.take() {
            Some(value) => Poll::Ready(value),
            None => {
                shared.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn locked<T>(shared: &Mutex<Shared<T>>) -> MutexGuard<'_, Shared<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
