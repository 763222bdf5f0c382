//! The guest's own record of one queue: every change it asked for, when it was submitted and when it was done.
//!
//! Time is counted in ticks of one clock that all queues and disks share, so that any two events have an order: a change
//! gets its first tick before the device can see it and its second one after the device has answered. Knows no bytes.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ticks, each handed out once.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The next tick, later than all that anybody has got so far.
    pub fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// The tick of what has not happened.
pub const NEVER: u64 = u64::MAX;

/// What a change does to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It holds this generation.
    Write,
    /// It is zero.
    Zeroes,
    /// It is zero or what it was.
    Discard,
}

/// One request that changes blocks.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Before the device could see it.
    pub submitted: u64,
    /// After the device had answered.
    pub completed: u64,
    /// What it does.
    pub effect: Effect,
    first: u32,
    count: u32,
}

impl Change {
    /// The blocks of the queue's stripe.
    pub fn blocks(&self) -> Range<usize> {
        self.first as usize..self.first as usize + self.count as usize
    }
}

/// All changes of a queue in the order of their generations, which is that of their submission. No two changes of a
/// block are under way at a time.
#[derive(Clone, Debug, Default)]
pub struct History {
    changes: Vec<Change>,
}

impl History {
    /// Notes the submission of the next generation.
    pub fn submitted(&mut self, tick: u64, effect: Effect, blocks: &Range<usize>) {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let (first, count) = (number(blocks.start), number(blocks.len()));
        self.changes.push(Change { submitted: tick, completed: NEVER, effect, first, count });
    }

    /// Notes that a generation is done.
    pub fn completed(&mut self, generation: u64, tick: u64) {
        let index = usize::try_from(generation).ok().and_then(|generation| generation.checked_sub(1));
        if let Some(change) = index.and_then(|index| self.changes.get_mut(index)) {
            change.completed = tick;
        }
    }

    /// Generations and what they change.
    pub fn changes(&self) -> impl Iterator<Item = (u64, &Change)> {
        (1..).zip(&self.changes)
    }

    /// How many changes were under way at a tick.
    pub fn in_flight(&self, tick: u64) -> u64 {
        self.changes.iter().filter(|change| change.submitted < tick && change.completed > tick).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_in_flight_from_its_submission_to_its_completion() {
        let mut history = History::default();
        history.submitted(10, Effect::Write, &(0..4));
        history.submitted(20, Effect::Zeroes, &(8..9));
        history.completed(1, 30);
        assert_eq!([5, 15, 25, 35].map(|tick| history.in_flight(tick)), [0, 1, 2, 1]);
    }
}
