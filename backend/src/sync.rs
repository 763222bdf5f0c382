//! Atomics, locks and threads: the standard library's, or loom's when the orderings are being checked.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

/// The standard library's, of which loom knows nothing: who finds it filled sees what was done before.
#[cfg(loom)]
pub(crate) struct OnceLock<T> {
    content: std::sync::OnceLock<T>,
    filled: AtomicBool,
}

#[cfg(loom)]
impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self { content: std::sync::OnceLock::new(), filled: AtomicBool::new(false) }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.filled.load(Ordering::Acquire) { self.content.get() } else { None }
    }

    pub(crate) fn set(&self, content: T) -> Result<(), T> {
        self.content.set(content)?;
        self.filled.store(true, Ordering::Release);
        Ok(())
    }
}
