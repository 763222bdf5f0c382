//! How long a queue looks for work before it sleeps: a time that grows while looking pays and drops to nothing when it
//! does not, so that an idle guest costs no CPU.

use super::super::options::Polling;
use super::active::Active;
use crate::io::Wait;

/// What polling starts with, in nanoseconds.
const FIRST: u64 = 4_096;
/// A wait of this many times the longest polling is taken for one that polling could have found the end of: it was
/// measured from the last work to the next fetch, so it holds the wake-up that polling saves.
const REACH: u64 = 4;
/// How often a ring without a kick descriptor is looked at, in nanoseconds.
const WITHOUT_KICKS: u64 = 1_000_000;

/// Adaptive polling of one queue.
pub(super) struct Idle {
    max: u64,
    window: u64,
    since: Option<u64>,
    slept: bool,
}

impl Idle {
    pub(super) fn new(polling: Polling) -> Self {
        Self { max: polling.max_ns, window: 0, since: None, slept: false }
    }

    /// How the next turn may wait. `busy` says that the last look at the ring found something.
    pub(super) fn wait(&mut self, busy: bool, now: u64, active: Option<&mut Active>) -> Wait {
        let Some(active) = active else { return Wait::Forever };
        if busy || active.has_unpublished() {
            self.woken(now);
            return Wait::No;
        }
        let since = *self.since.get_or_insert(now);
        if !active.can_fetch() {
            return Wait::Forever;
        }
        if now.saturating_sub(since) < self.window && !self.slept {
            return Wait::No;
        }
        self.slept = true;
        match active.arm_kicks() {
            true => Wait::No,
            false if active.has_kick() => Wait::Forever,
            false => Wait::Until(now.saturating_add(WITHOUT_KICKS)),
        }
    }

    /// Work came: had it been worth polling for it, or was polling vain?
    fn woken(&mut self, now: u64) {
        let Some(since) = self.since.take() else { return };
        if !std::mem::take(&mut self.slept) {
            return;
        }
        let idle = now.saturating_sub(since);
        self.window = match idle {
            _ if idle > self.max.saturating_mul(REACH) => 0,
            _ if self.window == 0 => FIRST.min(self.max),
            _ => (self.window * 2).min(self.max),
        };
    }
}
