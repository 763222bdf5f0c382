//! How long operations that may wait are made at once: as long as they do not wait.
//!
//! One that waited is the last for a pause. Pauses become longer while the first after each waits again, so what a
//! thread loses to waiting stays a small part of its time.

/// Nanoseconds; an operation that takes longer, and in which the thread slept, has waited for something.
const SLOW: u64 = 5_000_000;
/// Nanoseconds; the first pause.
const SHORTEST: u64 = 100_000_000;
/// Nanoseconds; the longest pause.
const LONGEST: u64 = 60_000_000_000;

/// What one thread has learnt of its operations.
#[derive(Debug)]
pub struct Patience {
    /// When the pause is over.
    resume: u64,
    /// The next pause.
    pause: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { resume: 0, pause: SHORTEST }
    }
}

impl Patience {
    /// Whether an operation may be made at once.
    pub fn allows(&self, now: u64) -> bool {
        now >= self.resume
    }

    /// An operation that was made at once has begun and ended (nanoseconds); `slept` says whether the thread slept then.
    pub fn learn(&mut self, began: u64, ended: u64, slept: impl FnOnce() -> bool) {
        if ended.saturating_sub(began) > SLOW && slept() {
            self.resume = ended.saturating_add(self.pause);
            self.pause = (self.pause * 2).min(LONGEST);
        } else if self.pause > SHORTEST && ended > self.resume.saturating_add(self.pause) {
            // As long as it would have paused nothing waited.
            self.pause = SHORTEST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn operations_that_do_not_wait_go_on_at_once() {
        let mut patience = Patience::default();
        for now in 0..1000 {
            assert!(patience.allows(now * MS));
            patience.learn(now * MS, now * MS + 20_000, || true);
        }
    }

    #[test]
    fn one_that_waited_is_the_last_for_a_pause_and_the_next_pause_is_longer() {
        let mut patience = Patience::default();
        patience.learn(0, 5 * MS, || true);
        assert!(patience.allows(5 * MS), "a tick is no wait");
        patience.learn(0, 10 * MS, || true);
        assert!(!patience.allows(109 * MS) && patience.allows(110 * MS));
        patience.learn(110 * MS, 120 * MS, || true);
        assert!(!patience.allows(319 * MS) && patience.allows(320 * MS));
    }

    #[test]
    fn one_whose_thread_had_to_let_others_run_has_not_waited() {
        let mut patience = Patience::default();
        patience.learn(0, 50 * MS, || false);
        assert!(patience.allows(50 * MS));
    }

    #[test]
    fn what_always_waits_is_tried_once_a_minute_in_the_end() {
        let (mut patience, mut now, mut tries) = (Patience::default(), 0, 0);
        while now < 3_600_000 * MS {
            if patience.allows(now) {
                patience.learn(now, now + 200 * MS, || true);
                (now, tries) = (now + 200 * MS, tries + 1);
            }
            now += 10 * MS;
        }
        assert!(tries < 75, "{tries} times an hour");
    }

    #[test]
    fn after_a_good_time_pauses_are_short_again() {
        let mut patience = Patience::default();
        for now in [0, 1000 * MS, 2000 * MS, 4000 * MS] {
            patience.learn(now, now + 10 * MS, || true);
        }
        // The next would be of 1.6 s, after one of 0.8 s.
        assert!(!patience.allows(4809 * MS) && patience.allows(4810 * MS));
        patience.learn(6411 * MS, 6411 * MS, || true);
        patience.learn(7000 * MS, 7010 * MS, || true);
        assert!(!patience.allows(7109 * MS) && patience.allows(7110 * MS));
    }
}
