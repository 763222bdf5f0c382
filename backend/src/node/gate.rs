//! A gate before a node: whatever changes something waits there until the bytes it is about are behind it.
//!
//! It is closed for all of the node at a point in time, opens from the beginning on, and never closes again. Reads and
//! flushes pass. Knows no requests and no nodes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// See the module.
#[derive(Default)]
pub struct Gate {
    /// Bytes from the node's beginning.
    open: AtomicU64,
    /// Who waits, and up to where it has to be open for him.
    waiting: Mutex<Vec<(u64, Waker)>>,
}

impl Gate {
    /// Closed for all.
    pub fn closed() -> Self {
        Self::default()
    }

    /// Whether these bytes are behind it.
    #[inline]
    pub fn lets_pass(&self, offset: u64, len: u64) -> bool {
        offset.saturating_add(len) <= self.open.load(Ordering::Acquire)
    }

    /// Opens it for what is before `end`.
    pub fn open_to(&self, end: u64) {
        self.open.fetch_max(end, Ordering::AcqRel);
        let ready: Vec<_> = self.waiting().extract_if(.., |(wanted, _)| *wanted <= end).collect();
        ready.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Waits until it lets these bytes pass.
    pub async fn passage(&self, offset: u64, len: u64) {
        std::future::poll_fn(|cx| {
            let mut waiting = self.waiting();
            if self.lets_pass(offset, len) {
                return Poll::Ready(());
            }
            let end = offset.saturating_add(len);
            if !waiting.iter().any(|(wanted, waker)| *wanted == end && waker.will_wake(cx.waker())) {
                waiting.push((end, cx.waker().clone()));
            }
            Poll::Pending
        })
        .await;
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(u64, Waker)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Wake};

    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn whoever_waits_is_woken_when_all_of_his_bytes_are_behind_the_gate() {
        let (count, gate) = (Arc::new(Count(AtomicU64::new(0))), Gate::closed());
        let waker = Waker::from(count.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut first = pin!(gate.passage(0, 4096));
        let mut last = pin!(gate.passage(u64::MAX - 1, 4096));
        assert!(first.as_mut().poll(cx).is_pending() && last.as_mut().poll(cx).is_pending());
        gate.open_to(4095);
        assert!(first.as_mut().poll(cx).is_pending());
        gate.open_to(4096);
        assert!(count.0.load(Ordering::SeqCst) == 1 && first.poll(cx).is_ready() && !gate.lets_pass(4096, 1));
        gate.open_to(u64::MAX);
        assert!(count.0.load(Ordering::SeqCst) == 2 && last.poll(cx).is_ready() && gate.lets_pass(4096, 1));
    }
}
