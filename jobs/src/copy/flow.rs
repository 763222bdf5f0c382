//! How many copies run at a time: more while that does not slow them down, fewer when they take longer, because then
//! the storage is busy, with guests perhaps. And how large a hole is zeroed in one go.
//!
//! A copy holds up the guests' writes to what it copies, and one that queues behind others of ours does so for nothing:
//! the window is to be what keeps the storage busy and not more. What is compared is the time of a copy among few, which
//! is measured anew now and then, with few under way: had it been measured among many, it would allow for many more.

use tidemark_backend::node::copy_before_write::PIECE_MAX;

/// Copies at the beginning, and while the time of a copy is measured. Fewer would not copy while the next is being
/// prepared.
const LEAST: usize = 2;
/// Copies that take this many times as long as among few are slowed down by others.
const SLOW: f64 = 3.0;
/// What was measured is believed for this many copies.
const MEMORY: usize = 256;
/// The largest hole that is zeroed in one go.
const HOLE_MAX: u64 = 1 << 30;
/// A hole that took less, in nanoseconds, may be twice as large next time; one that took eight times as long is too large.
const HOLE_NS: u64 = 1_000_000;

/// Smaller copies than this are compared among themselves, in bytes.
const SMALL: u64 = PIECE_MAX / 4;

/// Copies of about the same size.
#[derive(Clone, Copy, Debug)]
struct Class {
    /// Nanoseconds per copy among few.
    alone: u64,
    /// Copies of this window so far, and their time.
    count: u64,
    sum: u64,
}

impl Class {
    const NEW: Self = Self { alone: u64::MAX, count: 0, sum: 0 };

    /// Counts a copy; how many times as long it took as among few.
    fn took(&mut self, time: u64) -> f64 {
        self.count += 1;
        self.sum = self.sum.saturating_add(time);
        if self.alone == u64::MAX { 1.0 } else { time as f64 / self.alone as f64 }
    }

    /// Begins anew; believes what was measured if it was among few, or less than before.
    fn end_round(&mut self, among_few: bool) {
        let mean = self.sum.checked_div(self.count).map(|mean| mean.max(1));
        self.alone = match mean {
            Some(mean) if among_few => mean,
            mean => self.alone.min(mean.unwrap_or(u64::MAX)),
        };
        (self.count, self.sum) = (0, 0);
    }
}

/// The number of copies, and what it is learnt from.
#[derive(Debug)]
pub struct Flow {
    max: usize,
    window: usize,
    /// Small copies and large ones.
    classes: [Class; 2],
    /// Copies since they were measured among few.
    age: usize,
    /// The window to go on with after a measurement; `None` if there is none now.
    paused: Option<usize>,
    /// The window doubles until copies are slow for the first time.
    doubling: bool,
    /// Copies to come that were begun under another window.
    stale: usize,
    /// Copies of this window so far, and how slow they were in sum.
    round: (usize, f64),
    hole: u64,
}

impl Flow {
    /// At most so many copies at a time.
    pub fn new(max: usize) -> Self {
        let max = max.max(1);
        Self {
            max,
            window: LEAST.min(max),
            classes: [Class::NEW; 2],
            age: 0,
            paused: None,
            doubling: true,
            stale: 0,
            round: (0, 0.0),
            hole: PIECE_MAX,
        }
    }

    /// Copies at a time.
    pub fn window(&self) -> usize {
        self.window
    }

    /// A copy of `len` bytes took `time` nanoseconds.
    pub fn took(&mut self, len: u64, time: u64) {
        if self.stale > 0 {
            self.stale -= 1;
            return;
        }
        self.age += 1;
        let slower = self.classes[usize::from(len >= SMALL)].took(time);
        self.round = (self.round.0 + 1, self.round.1 + slower);
        // Nothing that is still to come makes slow copies quick on the whole.
        let slow = self.paused.is_none() && self.round.1 > SLOW * self.window as f64;
        if slow || self.round.0 >= self.window {
            self.decide(slow);
        }
    }

    /// A window's worth of copies has ended, or enough of them to know.
    fn decide(&mut self, slow: bool) {
        self.round = (0, 0.0);
        let measured = self.paused.take();
        if !slow {
            self.classes.iter_mut().for_each(|class| class.end_round(measured.is_some()));
        } else {
            self.classes.iter_mut().for_each(|class| (class.count, class.sum) = (0, 0));
        }
        if let Some(window) = measured {
            (self.window, self.age) = (window, 0);
        } else if self.age > MEMORY {
            self.paused = Some(self.window);
            self.shrink_to(LEAST);
        } else if slow {
            self.doubling = false;
            self.shrink_to(self.window / 2);
        } else {
            let more = if self.doubling { self.window } else { 1 };
            self.window = (self.window + more).min(self.max);
        }
    }

    fn shrink_to(&mut self, window: usize) {
        let window = window.max(LEAST).min(self.max);
        self.stale = self.window - window.min(self.window);
        self.window = window;
    }

    /// The largest hole to zero in one go, in bytes.
    pub(super) fn hole(&self) -> u64 {
        self.hole
    }

    /// Zeroing a hole of `len` bytes took `time` nanoseconds: quick storage gets larger ones, while storage that has to
    /// write zeroes does not hold up a guest for all of a large one.
    pub(super) fn zeroed(&mut self, len: u64, time: u64) {
        if time < HOLE_NS && len >= self.hole {
            self.hole = (self.hole * 2).min(HOLE_MAX);
        } else if time > 8 * HOLE_NS {
            self.hole = (self.hole / 4).max(PIECE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The windows of so many copies, of which each takes what `time` says among as many as run.
    fn windows(flow: &mut Flow, count: usize, time: impl Fn(u64) -> u64) -> Vec<usize> {
        let copy = |_| {
            let window = flow.window();
            flow.took(PIECE_MAX, time(window as u64));
            window
        };
        (0..count).map(copy).collect()
    }

    /// The window most of the time.
    fn usual(flow: &mut Flow, count: usize, time: impl Fn(u64) -> u64) -> usize {
        let mut all = windows(flow, count, time);
        all.sort_unstable();
        all[all.len() / 2]
    }

    #[test]
    fn storage_with_room_gets_all_copies_there_may_be_and_soon() {
        let mut flow = Flow::new(64);
        windows(&mut flow, 200, |_| MS);
        assert_eq!(flow.window(), 64);
        assert_eq!(usual(&mut flow, 10_000, |_| MS), 64);
    }

    #[test]
    fn copies_that_queue_behind_each_other_stay_few_however_long_it_goes_on() {
        let mut flow = Flow::new(64);
        let most = windows(&mut flow, 10_000, |window| window * MS).into_iter().max();
        assert!(most.is_some_and(|most| most <= 8), "{most:?}");
    }

    #[test]
    fn storage_that_does_eight_at_a_time_gets_as_many_and_not_many_more() {
        let mut flow = Flow::new(64);
        let time = |window: u64| window.div_ceil(8) * MS;
        let usual = usual(&mut flow, 10_000, time);
        assert!((8..=32).contains(&usual), "{usual}");
    }

    #[test]
    fn storage_that_guests_keep_busy_gets_few_copies_and_more_when_they_have_gone() {
        let mut flow = Flow::new(64);
        windows(&mut flow, 150, |_| MS);
        assert_eq!(flow.window(), 64);
        let busy = |window: u64| (20 + 10 * window) * MS;
        assert!(windows(&mut flow, 100, busy).contains(&LEAST), "{flow:?}");
        assert!(usual(&mut flow, 10_000, busy) <= 16, "{flow:?}");
        windows(&mut flow, 3000, |_| MS);
        assert!(flow.window() > 16, "{flow:?}");
    }

    #[test]
    fn storage_that_has_become_slower_for_good_is_not_taken_for_busy_for_ever() {
        let mut flow = Flow::new(64);
        windows(&mut flow, 300, |_| MS);
        assert!(usual(&mut flow, 10_000, |_| 40 * MS) > 8);
    }

    #[test]
    fn one_slow_copy_among_many_changes_nothing() {
        let mut flow = Flow::new(16);
        windows(&mut flow, 100, |_| MS);
        flow.took(PIECE_MAX, 20 * MS);
        windows(&mut flow, 15, |_| MS);
        assert_eq!(flow.window(), 16);
    }

    #[test]
    fn small_copies_tell_of_busy_storage_too() {
        let mut flow = Flow::new(64);
        windows(&mut flow, 200, |_| MS);
        // A large one takes twenty times as long; that is not slow.
        (0..100).for_each(|_| flow.took(8192, MS / 20));
        assert_eq!(flow.window(), 64);
        let queue = |flow: &mut Flow| {
            flow.took(8192, flow.window() as u64 * MS);
            flow.window()
        };
        for _ in 0..1000 {
            queue(&mut flow);
        }
        let most = (0..10_000).map(|_| queue(&mut flow)).max();
        assert!(most.is_some_and(|most| most <= 8), "{most:?}");
    }

    #[test]
    fn large_copies_after_small_ones_are_not_slow() {
        let mut flow = Flow::new(64);
        (0..1000).for_each(|_| flow.took(8192, MS / 20));
        windows(&mut flow, 200, |_| MS);
        assert_eq!(flow.window(), 64);
    }

    #[test]
    fn an_operator_may_ask_for_one_at_a_time() {
        assert!(windows(&mut Flow::new(1), 1000, |_| MS).iter().all(|window| *window == 1));
        assert!(windows(&mut Flow::new(0), 1000, |_| MS).iter().all(|window| *window == 1));
    }

    #[test]
    fn holes_are_zeroed_in_pieces_that_take_no_time() {
        let mut flow = Flow::new(1);
        for _ in 0..20 {
            let len = flow.hole();
            flow.zeroed(len, 10_000);
        }
        assert_eq!(flow.hole(), HOLE_MAX);
        // A gigabyte a second.
        for _ in 0..20 {
            let len = flow.hole();
            flow.zeroed(len, len);
        }
        assert!(flow.hole() <= 16 * PIECE_MAX, "{}", flow.hole());
    }
}
