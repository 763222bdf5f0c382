//! Batons that go from disk to disk and from queue to queue: a writer writes its block only when the one before it is
//! done.
//!
//! What the random load leaves to chance is certain here: at any moment there is a write that must not be seen without
//! the one before it, which another queue made on another disk.

use std::sync::atomic::{AtomicU64, Ordering};

/// Batons on their way at a time. Each has a block of its own at the beginning of every stripe.
pub const BATONS: usize = 4;

/// Where the batons are.
#[derive(Debug)]
pub struct Relay {
    runners: u64,
    turns: [AtomicU64; BATONS],
}

impl Relay {
    /// All batons at runner 0 of `runners`.
    pub fn new(runners: u64) -> Relay {
        Relay { runners: runners.max(1), turns: Default::default() }
    }

    /// Whether `runner` is to write baton `baton`, with all writes before it done.
    pub fn is_turn(&self, baton: usize, runner: u64) -> bool {
        self.turns.get(baton).is_some_and(|turn| turn.load(Ordering::SeqCst) % self.runners == runner)
    }

    /// The write of whoever's turn it was is done.
    pub fn pass(&self, baton: usize) {
        if let Some(turn) = self.turns.get(baton) {
            turn.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How often batons were passed in all.
    pub fn passed(&self) -> u64 {
        self.turns.iter().map(|turn| turn.load(Ordering::SeqCst)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baton_goes_round_and_is_with_one_runner_at_a_time() {
        let relay = Relay::new(3);
        for turn in 0..7 {
            let holders: Vec<_> = (0..3).filter(|runner| relay.is_turn(1, *runner)).collect();
            assert_eq!(holders, [turn % 3]);
            relay.pass(1);
        }
        assert!(relay.is_turn(0, 0), "each baton for itself");
        assert_eq!(relay.passed(), 7);
    }
}
