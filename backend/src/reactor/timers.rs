//! Deadlines of one reactor's tasks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Sleeping tasks by deadline; the second part of the key tells equal deadlines apart.
#[derive(Default)]
pub(super) struct Timers {
    sleeping: BTreeMap<(u64, u64), Waker>,
    count: u64,
}

impl Timers {
    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<u64> {
        self.sleeping.first_key_value().map(|((time, _), _)| *time)
    }

    /// Wakes whoever's deadline has passed.
    pub(super) fn expire(&mut self, now: u64) {
        while let Some(entry) = self.sleeping.first_entry()
            && entry.key().0 <= now
        {
            entry.remove().wake();
        }
    }

    fn add(&mut self, deadline: u64, waker: Waker) -> (u64, u64) {
        self.count += 1;
        let key = (deadline, self.count);
        self.sleeping.insert(key, waker);
        key
    }
}

/// See [`super::Handle::sleep_until`].
pub struct Sleep<'a> {
    timers: &'a RefCell<Timers>,
    now: &'a Cell<u64>,
    deadline: u64,
    key: Option<(u64, u64)>,
}

impl<'a> Sleep<'a> {
    pub(super) fn new(timers: &'a RefCell<Timers>, now: &'a Cell<u64>, deadline: u64) -> Self {
        Self { timers, now, deadline, key: None }
    }
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut timers = self.timers.borrow_mut();
        if let Some(key) = self.key {
            timers.sleeping.remove(&key);
        }
        if self.now.get() >= self.deadline {
            drop(timers);
            self.key = None;
            return Poll::Ready(());
        }
        let key = timers.add(self.deadline, cx.waker().clone());
        drop(timers);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timers.borrow_mut().sleeping.remove(&key);
        }
    }
}
