//! How many copies run at a time: more while that does not slow them down, fewer when they take longer, because then
//! the storage is busy, with guests perhaps.

/// Copies at the beginning.
const FIRST: usize = 4;
/// Fewer would not copy while the next is being prepared.
const LEAST: usize = 2;
/// A copy that takes this many times the shortest is slowed down by others.
const SLOW: u64 = 4;
/// A shortest time is believed for this many copies.
const MEMORY: u32 = 512;

/// The number of copies, and what it is learnt from.
#[derive(Debug)]
pub(super) struct Flow {
    max: usize,
    window: usize,
    /// Nanoseconds per copy of full size: the shortest of late.
    shortest: u64,
    age: u32,
    /// Copies since the window last changed.
    steady: usize,
}

impl Flow {
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, window: FIRST.min(max), shortest: u64::MAX, age: 0, steady: 0 }
    }

    /// Copies at a time.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// A copy of full size took `time` nanoseconds.
    pub(super) fn took(&mut self, time: u64) {
        self.age += 1;
        if time <= self.shortest || self.age > MEMORY {
            self.shortest = time.max(1);
            self.age = 0;
        }
        self.steady += 1;
        if self.steady < self.window {
            return;
        }
        self.steady = 0;
        // Copies queue behind each other too: what counts is the time for one if it were alone.
        let expected = self.shortest.saturating_mul(SLOW).max(self.shortest.saturating_mul(self.window as u64) / 2);
        self.window = if time > expected { (self.window / 2).max(LEAST) } else { self.window + 1 }.clamp(1, self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(mut flow: Flow, count: usize, time: impl Fn(usize) -> u64) -> Flow {
        for _ in 0..count {
            let window = flow.window();
            flow.took(time(window));
        }
        flow
    }

    #[test]
    fn storage_with_room_gets_more_copies() {
        assert_eq!(after(Flow::new(16), 1000, |_| 1_000_000).window(), 16);
    }

    #[test]
    fn storage_that_slows_down_gets_few() {
        let flow = after(Flow::new(64), 200, |_| 1_000_000);
        assert!(flow.window() > 8);
        let busy = after(flow, 200, |_| 40_000_000);
        assert!(busy.window() <= 4, "{busy:?}");
    }

    #[test]
    fn an_operator_may_ask_for_one_at_a_time() {
        assert_eq!(after(Flow::new(1), 100, |_| 1000).window(), 1);
    }
}
