//! What the guests of an export have done: counters each queue thread keeps for itself, summed when asked.

use crate::node::Kind;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests of one kind.
#[derive(Debug, Default)]
struct Counter {
    operations: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    failed: AtomicU64,
}

/// One queue's counters. Only its thread writes, so plain loads and stores do.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Stats {
    kinds: [Counter; 4],
}

/// Index of a kind's counters: read, write (and zeroes), flush, discard.
fn index(kind: Kind) -> usize {
    match kind {
        Kind::Read => 0,
        Kind::Write | Kind::Zero { .. } => 1,
        Kind::Flush => 2,
        Kind::Discard => 3,
    }
}

impl Stats {
    /// Counts one finished request.
    pub fn count(&self, kind: Kind, bytes: u64, nanoseconds: u64, ok: bool) {
        let add = |counter: &AtomicU64, by: u64| {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        };
        let counter = &self.kinds[index(kind)];
        if !ok {
            return add(&counter.failed, 1);
        }
        add(&counter.operations, 1);
        add(&counter.bytes, bytes);
        add(&counter.nanoseconds, nanoseconds);
    }
}

/// Sums for one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Requests that succeeded.
    pub operations: u64,
    /// Bytes they moved.
    pub bytes: u64,
    /// Nanoseconds they took together.
    pub nanoseconds: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// Sums over all queues of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Reads.
    pub read: Total,
    /// Writes and write-zeroes.
    pub write: Total,
    /// Flushes.
    pub flush: Total,
    /// Discards.
    pub discard: Total,
}

impl Totals {
    /// The sums over `queues`.
    pub fn of(queues: &[Stats]) -> Self {
        let total = |kind: Kind| {
            let sum = |pick: fn(&Counter) -> &AtomicU64| {
                queues.iter().map(|queue| pick(&queue.kinds[index(kind)]).load(Ordering::Relaxed)).sum()
            };
            Total {
                operations: sum(|counter| &counter.operations),
                bytes: sum(|counter| &counter.bytes),
                nanoseconds: sum(|counter| &counter.nanoseconds),
                failed: sum(|counter| &counter.failed),
            }
        };
        Self {
            read: total(Kind::Read),
            write: total(Kind::Write),
            flush: total(Kind::Flush),
            discard: total(Kind::Discard),
        }
    }
}
