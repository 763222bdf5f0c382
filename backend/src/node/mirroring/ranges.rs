//! Ranges that somebody has to himself, in the order in which they were asked for: who wants much is not overtaken for
//! ever by many who want little. Taken by tasks of any thread; nobody asks for a second one while he has one.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

#[derive(Default)]
pub(super) struct Ranges(Mutex<Queue>);

/// Those who have their range and those who wait, the first to come first.
#[derive(Default)]
struct Queue {
    next: u64,
    entries: Vec<Entry>,
}

struct Entry {
    number: u64,
    range: Range<u64>,
    waiting: Option<Waker>,
}

impl Entry {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

/// A range that is held or waited for; given up when dropped.
pub struct Held {
    ranges: Arc<Ranges>,
    number: u64,
}

impl Ranges {
    /// Waits until all who came before have given up what they have of the range, and holds it.
    pub(super) async fn hold(self: &Arc<Self>, range: Range<u64>) -> Held {
        let held = self.queue_up(range);
        std::future::poll_fn(|cx| match self.locked().is_first(held.number, cx.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        held
    }

    fn queue_up(self: &Arc<Self>, range: Range<u64>) -> Held {
        let mut queue = self.locked();
        let number = queue.next;
        queue.next += 1;
        queue.entries.push(Entry { number, range, waiting: None });
        Held { ranges: self.clone(), number }
    }

    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Whether nobody before this one has or wants any of its range; if somebody does, the task of `waker` is woken when
    /// that may have changed.
    fn is_first(&mut self, number: u64, waker: &Waker) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.number == number) else { return true };
        let (before, rest) = self.entries.split_at_mut(at);
        let Some(own) = rest.first_mut() else { return true };
        let waits = before.iter().any(|entry| entry.overlaps(&own.range));
        own.waiting = waits.then(|| waker.clone());
        !waits
    }

    /// Takes one out; who waited for it.
    fn leave(&mut self, number: u64) -> Vec<Waker> {
        let Some(at) = self.entries.iter().position(|entry| entry.number == number) else { return Vec::new() };
        let gone = self.entries.remove(at);
        let behind = self.entries.iter_mut().skip(at).filter(|entry| entry.overlaps(&gone.range));
        behind.filter_map(|entry| entry.waiting.take()).collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let woken = self.ranges.locked().leave(self.number);
        woken.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn who_wants_much_comes_before_those_who_came_later_and_want_little() {
        let ranges = Arc::new(Ranges::default());
        let cx = &mut Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(ranges.hold(0..10)).poll(cx) else { panic!("nobody was before") };
        let mut much = pin!(ranges.hold(5..100));
        assert!(much.as_mut().poll(cx).is_pending());
        let mut little = pin!(ranges.hold(50..60));
        assert!(little.as_mut().poll(cx).is_pending(), "it goes after the one that wants much");
        assert!(pin!(ranges.hold(100..110)).poll(cx).is_ready(), "nobody wants that");
        drop(first);
        let Poll::Ready(much) = much.poll(cx) else { panic!("the first has gone") };
        assert!(little.as_mut().poll(cx).is_pending());
        drop(much);
        assert!(little.poll(cx).is_ready());
    }

    #[test]
    fn who_has_stopped_waiting_is_in_nobodys_way() {
        let ranges = Arc::new(Ranges::default());
        let cx = &mut Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(ranges.hold(0..10)).poll(cx) else { panic!("nobody was before") };
        {
            let mut given_up = pin!(ranges.hold(0..100));
            assert!(given_up.as_mut().poll(cx).is_pending());
        }
        assert!(pin!(ranges.hold(50..60)).poll(cx).is_ready());
        drop(first);
        assert!(ranges.locked().entries.is_empty());
    }
}
