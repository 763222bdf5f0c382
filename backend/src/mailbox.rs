//! Messages to a thread that may be asleep in the kernel: a queue, and a bell that is rung only for a sleeper.
//!
//! The ordering that keeps a wake-up from being lost: the sleeper *arms* the bell, then looks at its queue once more;
//! a sender *queues*, then looks whether the bell is armed. Both with a full fence between their two steps, so that at
//! least one of them sees the other. The loom test at the end checks it.

use crate::sync::{Arc, AtomicBool, Mutex, Ordering, fence};

/// What is rung: an eventfd, or a counter under test.
pub trait Ring {
    /// Wakes the sleeper, now or when it next goes to sleep.
    fn ring(&self);
}

/// Says whether the owner is asleep and wakes it.
#[derive(Debug)]
pub struct Bell<R> {
    armed: AtomicBool,
    ring: R,
}

impl<R: Ring> Bell<R> {
    /// A bell whose owner is awake.
    pub fn new(ring: R) -> Self {
        Self { armed: AtomicBool::new(false), ring }
    }

    /// The owner is about to sleep; it must look for work once more after this.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// Wakes the owner if it sleeps. Work must be visible to it before.
    pub fn call(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::AcqRel) {
            self.ring.ring();
        }
    }

    /// What is rung.
    pub fn ringer(&self) -> &R {
        &self.ring
    }
}

/// A queue of messages to the thread that owns a bell.
#[derive(Debug)]
pub struct Mailbox<T, R> {
    letters: Mutex<Vec<T>>,
    /// Saves the owner the lock while nothing has come.
    filled: AtomicBool,
    bell: Arc<Bell<R>>,
}

impl<T, R: Ring> Mailbox<T, R> {
    /// An empty mailbox of the bell's owner.
    pub fn new(bell: Arc<Bell<R>>) -> Self {
        Self { letters: Mutex::new(Vec::new()), filled: AtomicBool::new(false), bell }
    }

    /// Queues a message and wakes the owner.
    pub fn send(&self, letter: T) {
        self.lock().push(letter);
        self.filled.store(true, Ordering::Release);
        self.bell.call();
    }

    /// Whether a message has come.
    pub fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// All messages so far, oldest first.
    pub fn take(&self) -> Vec<T> {
        if !self.is_filled() {
            return Vec::new();
        }
        let mut letters = self.lock();
        self.filled.store(false, Ordering::Relaxed);
        std::mem::take(&mut *letters)
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.letters.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, Vec<T>> {
        self.letters.lock().expect("no thread of the model panics")
    }
}

#[cfg(test)]
mod tests;
