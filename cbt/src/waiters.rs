//! Who waits for chunks. No wake-up is lost: the waiter adds itself and then looks at the chunk once more; whoever
//! changed the chunk looks for waiters afterwards. Both with a full fence between their two steps.

use crate::sync::{AtomicBool, Mutex, Ordering, fence};
use std::ops::Range;

/// Lists, so that few wait for others' chunks.
#[cfg(not(loom))]
const SHARDS: usize = 16;
#[cfg(loom)]
const SHARDS: usize = 1;

/// Waiters by chunk.
pub struct Waiters<W> {
    shards: [Shard<W>; SHARDS],
}

struct Shard<W> {
    list: Mutex<Vec<W>>,
    /// Saves whoever changes a chunk the lock while nobody waits.
    filled: AtomicBool,
}

impl<W> Waiters<W> {
    /// Nobody.
    pub fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Shard { list: Mutex::new(Vec::new()), filled: AtomicBool::new(false) }) }
    }

    /// Somebody waits for a chunk; he has to look at it once more now.
    pub fn add(&self, chunk: u64, waiter: W) {
        let shard = &self.shards[place(chunk)];
        let mut list = shard.lock();
        list.push(waiter);
        shard.filled.store(true, Ordering::Relaxed);
        drop(list);
        fence(Ordering::SeqCst);
    }

    /// Somebody no longer waits for a chunk.
    pub fn remove(&self, chunk: u64, is_it: impl Fn(&W) -> bool) {
        let shard = &self.shards[place(chunk)];
        // Not filled any more: it has been woken with all others.
        if shard.filled.load(Ordering::Relaxed) {
            shard.lock().retain(|waiter| !is_it(waiter));
        }
    }

    /// The state of these chunks has changed.
    pub fn wake(&self, chunks: Range<u64>, wake: impl Fn(W)) {
        let count = chunks.end.saturating_sub(chunks.start).min(SHARDS as u64);
        fence(Ordering::SeqCst);
        for chunk in chunks.start..chunks.start + count {
            self.shards[place(chunk)].take().into_iter().for_each(&wake);
        }
    }

    /// Something has changed that concerns all.
    pub fn wake_all(&self, wake: impl Fn(W)) {
        self.wake(0..SHARDS as u64, wake);
    }
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Shard<W> {
    fn take(&self) -> Vec<W> {
        if !self.filled.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut list = self.lock();
        self.filled.store(false, Ordering::Relaxed);
        std::mem::take(&mut *list)
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<W>> {
        self.list.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, Vec<W>> {
        self.list.lock().expect("no thread of the model panics")
    }
}

fn place(chunk: u64) -> usize {
    usize::try_from(chunk % SHARDS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests;
