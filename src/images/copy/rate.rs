//! How fast is copied, at most: bytes a second, of all threads together.

use crate::images::crew::Sweep;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_backend::reactor::Handle;

const SECOND: u64 = 1_000_000_000;
/// Between two looks whether all is to end, in nanoseconds.
const LOOK_NS: u64 = 50_000_000;

/// See the module.
#[derive(Debug)]
pub struct Rate {
    bytes: u64,
    /// When the next piece may begin, by the clock.
    next: AtomicU64,
}

impl Rate {
    /// So many bytes a second; as fast as it goes if none.
    pub fn limit(bytes: u64) -> Option<Self> {
        (bytes > 0).then(|| Self { bytes, next: AtomicU64::new(0) })
    }

    /// Waits until so many bytes more may be copied, or all is to end.
    pub(super) async fn wait(&self, io: &Handle, len: u64, sweep: &Sweep) {
        let now = io.read_clock();
        let takes = u128::from(len) * u128::from(SECOND) / u128::from(self.bytes);
        let takes = u64::try_from(takes).unwrap_or(u64::MAX);
        let after = |next: u64| Some(next.max(now).saturating_add(takes));
        let begin = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after).unwrap_or(now);
        while io.read_clock() < begin && !sweep.is_stopped() {
            io.sleep_until(begin.min(io.read_clock().saturating_add(LOOK_NS))).await;
        }
    }
}
