//! What one client may have under way: memory is counted before it is taken.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Requests of one connection at the same time.
pub const REQUESTS_MAX: u32 = 16;

/// Bytes of data of one connection's requests, being received, read, written or sent. A request alone may have 32 MiB.
pub const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is left of that. Only one task waits for it: the one that receives requests.
#[derive(Default)]
pub struct Budget {
    requests: Cell<u32>,
    bytes: Cell<u64>,
    waiting: RefCell<Option<Waker>>,
}

/// A request's part of it, given back when it is dropped.
pub struct Share {
    budget: Rc<Budget>,
    bytes: u64,
}

impl Budget {
    /// Waits until there is room for a request with this many bytes, at most [`BYTES_MAX`].
    pub async fn take(self: &Rc<Self>, bytes: u64) -> Share {
        self.wait(|budget| budget.requests.get() < REQUESTS_MAX && budget.bytes.get() + bytes <= BYTES_MAX).await;
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        Share { budget: self.clone(), bytes }
    }

    /// Waits until no request is under way.
    pub async fn wait_idle(&self) {
        self.wait(|budget| budget.requests.get() == 0).await;
    }

    async fn wait(&self, is_over: impl Fn(&Self) -> bool) {
        std::future::poll_fn(|cx| {
            if is_over(self) {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let budget = &self.budget;
        budget.requests.set(budget.requests.get() - 1);
        budget.bytes.set(budget.bytes.get() - self.bytes);
        let waiting = budget.waiting.borrow_mut().take();
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    /// A request's part, if it can be had at once.
    fn take(budget: &Rc<Budget>, bytes: u64) -> Option<Share> {
        match pin!(budget.take(bytes)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(share) => Some(share),
            Poll::Pending => None,
        }
    }

    #[test]
    fn sixteen_requests_or_64_mib_are_under_way_and_no_more() {
        let budget = Rc::new(Budget::default());
        let mut requests: Vec<_> = (0..16).map(|_| take(&budget, 4096).expect("there is room")).collect();
        assert!(take(&budget, 0).is_none(), "a seventeenth");
        requests.truncate(2);
        assert!(take(&budget, BYTES_MAX - 8191).is_none(), "a byte too many");
        assert!(take(&budget, BYTES_MAX - 8192).is_some());
        requests.clear();
        assert!(take(&budget, BYTES_MAX).is_some(), "all was given back");
    }
}
