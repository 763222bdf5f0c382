//! Flushes of one file, one at a time.
//!
//! The kernel tells of data it could not write once per open file: of two flushes side by side only one would fail, and
//! the other would promise what is lost. So a flush waits for the one before, and fails if that did. Those that wait
//! together are served by one flush, which begins after all of them came.

use super::File;
use crate::error::IoError;
use crate::io::{Op, OpKind};
use crate::range_lock::{Guard, RangeLock};
use crate::reactor::Handle;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whose turn it is, and how many flushes have begun.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    turn: RangeLock,
    begun: AtomicU64,
}

impl Flushes {
    /// Waits until no flush is under way; none begins as long as the guard lives.
    pub(super) async fn turn(&self) -> Guard<'_> {
        self.turn.lock(0..1).await
    }
}

impl File {
    /// Makes all that has ended stable.
    pub(super) async fn flush(&self, io: &Handle) -> Result<(), IoError> {
        let arrived = self.flushes.begun.load(Ordering::Acquire);
        let _turn = self.flushes.turn().await;
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(IoError::Io);
        }
        if self.flushes.begun.load(Ordering::Acquire) > arrived {
            // It has begun after we came, it is over, and it did not fail.
            return Ok(());
        }
        self.flushes.begun.fetch_add(1, Ordering::AcqRel);
        let (_, result) = io.run(Op::bare(OpKind::Flush, self.id(), 0, 0)).await;
        if let Err(error) = result {
            self.poisoned.store(true, Ordering::Relaxed);
            tracing::error!(file = %self.path, %error, "flush failed: the file takes no more writes");
        }
        result
    }
}
