//! Exclusive ranges of a node, for writes that must read what they overwrite: two of them on one block would lose
//! the bytes of one. Taken by tasks of any thread; a waiting task sleeps.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

#[derive(Debug)]
struct Held {
    range: Range<u64>,
    waiting: Vec<Waker>,
}

/// The ranges of one node that are held.
#[derive(Debug, Default)]
pub struct RangeLock {
    held: Mutex<Vec<Held>>,
}

impl RangeLock {
    /// Waits until nobody holds any part of `range` and holds it.
    pub async fn lock(&self, range: Range<u64>) -> Guard<'_> {
        std::future::poll_fn(|cx| {
            let mut held = self.locked();
            if let Some(other) = held.iter_mut().find(|held| overlaps(&held.range, &range)) {
                // Somebody who waits for more than this asks several times.
                if !other.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    other.waiting.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            held.push(Held { range: range.clone(), waiting: Vec::new() });
            Poll::Ready(())
        })
        .await;
        Guard { lock: self, range }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// A held range; let go of when dropped.
#[derive(Debug)]
pub struct Guard<'a> {
    lock: &'a RangeLock,
    range: Range<u64>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.locked();
        // Held ranges are disjoint, so start and end name one.
        let Some(index) = held.iter().position(|held| held.range == self.range) else { return };
        let ended = held.swap_remove(index);
        drop(held);
        ended.waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake};

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn an_overlapping_range_waits_and_is_woken_and_a_neighbour_does_not_wait() {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        let cx = &mut Context::from_waker(&waker);
        let lock = RangeLock::default();
        let Poll::Ready(first) = pin!(lock.lock(0..4096)).poll(cx) else { panic!("nobody holds it") };
        let mut second = pin!(lock.lock(4095..8192));
        assert!(second.as_mut().poll(cx).is_pending());
        let neighbour = pin!(lock.lock(8192..9000)).poll(cx);
        assert!(neighbour.is_ready());
        assert!(!flag.0.load(Ordering::SeqCst));
        drop(first);
        assert!(flag.0.load(Ordering::SeqCst));
        assert!(second.poll(cx).is_ready());
    }
}
