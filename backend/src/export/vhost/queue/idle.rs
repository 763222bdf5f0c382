//! How long a queue looks for work before it sleeps: a time that grows while looking pays and drops to nothing when it
//! does not, so that an idle guest costs no CPU.
//!
//! What a guest sends next it sends because something was completed. So the time runs from the last publication, and
//! only as long as fewer requests came back than were answered: whoever has all its requests in flight is not waited for.

use super::super::options::Polling;

/// What polling starts with, in nanoseconds.
const FIRST: u64 = 4_096;
/// A wait of this many times the longest polling is taken for one that polling could have found the end of: it holds
/// the wake-up that polling saves.
const REACH: u64 = 4;

/// Adaptive polling of one queue.
pub(super) struct Idle {
    max: u64,
    window: u64,
    /// Time of the last publication.
    published: u64,
    /// Requests answered that no new one has followed yet.
    expected: u32,
    slept: bool,
}

impl Idle {
    pub(super) fn new(polling: Polling) -> Self {
        Self { max: polling.max_ns, window: 0, published: 0, expected: 0, slept: false }
    }

    /// The guest was shown `count` answers.
    pub(super) fn published(&mut self, count: u32, now: u64) {
        // Whoever did not follow up before we slept is not expected to any more.
        self.expected = if self.slept { count } else { self.expected.saturating_add(count) };
        self.published = now;
        self.slept = false;
    }

    /// The guest sent `count` requests, at least one.
    pub(super) fn fetched(&mut self, count: u32, now: u64) {
        if std::mem::take(&mut self.slept) && self.expected > 0 {
            self.learn(now.saturating_sub(self.published));
        }
        self.expected = self.expected.saturating_sub(count);
    }

    /// Whether to look again instead of sleeping. After the answer no, the queue has to be asleep until something comes.
    pub(super) fn polls(&mut self, now: u64) -> bool {
        let polls = self.expected > 0 && !self.slept && now.saturating_sub(self.published) < self.window;
        self.slept = !polls;
        polls
    }

    /// Work came after we had gone to sleep: had it been worth polling for it, or was polling vain?
    fn learn(&mut self, idle: u64) {
        self.window = match idle {
            _ if idle > self.max.saturating_mul(REACH) => 0,
            _ if self.window == 0 => FIRST.min(self.max),
            _ => (self.window * 2).min(self.max),
        };
    }
}

#[cfg(test)]
mod tests;
