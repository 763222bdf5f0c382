//! What the workers of a backup do besides: they fill their stripe first, keep the record, pass batons, and tell the
//! latency of writes during backups from that before.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::history::{Clock, Effect, History};
use super::relay::{BATONS, Relay};
use super::worker::latency_histogram;

/// What all workers share with each other and with whoever takes the backups.
#[derive(Debug)]
pub struct Shared {
    /// The guest's clock.
    pub clock: Clock,
    /// The batons.
    pub relay: Relay,
    unfilled: AtomicU64,
    step: AtomicUsize,
    calm: AtomicBool,
    backup: AtomicBool,
}

/// Whose latency is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No backup yet.
    Before,
    /// A backup is running.
    During,
}

impl Shared {
    /// For so many workers.
    pub fn new(workers: u64) -> Arc<Shared> {
        Arc::new(Shared {
            clock: Clock::default(),
            relay: Relay::new(workers),
            unfilled: AtomicU64::new(workers),
            step: AtomicUsize::new(0),
            calm: AtomicBool::new(false),
            backup: AtomicBool::new(false),
        })
    }

    /// Whether every worker has filled its stripe.
    pub fn is_filled(&self) -> bool {
        self.unfilled.load(Ordering::SeqCst) == 0
    }

    /// Random requests go on a bit further from here on.
    pub fn advance(&self) {
        self.step.fetch_add(1, Ordering::Relaxed);
    }

    /// Says whether the load is by itself, before any backup.
    pub fn set_calm(&self, calm: bool) {
        self.calm.store(calm, Ordering::Relaxed);
    }

    /// Says whether a backup is running.
    pub fn set_backup(&self, running: bool) {
        self.backup.store(running, Ordering::Relaxed);
    }

    fn phase(&self) -> Option<Phase> {
        match (self.backup.load(Ordering::Relaxed), self.calm.load(Ordering::Relaxed)) {
            (true, _) => Some(Phase::During),
            (false, true) => Some(Phase::Before),
            (false, false) => None,
        }
    }
}

/// The part of a stripe of so many blocks that is filled; random requests never leave it.
pub fn filled(blocks: usize) -> Range<usize> {
    BATONS..BATONS + blocks / 2
}

/// One worker's share.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    runner: u64,
    blocks: usize,
    to_fill: Range<usize>,
    /// Blocks of the fill that are still under way.
    filling: usize,
    /// The record.
    pub history: History,
    /// Nanoseconds of writes, before and during.
    pub latency: [Histogram<u64>; 2],
}

impl Recorder {
    /// For runner `runner` of the relay, on a stripe of so many blocks.
    ///
    /// # Errors
    /// None in practice: the histograms' bounds are fixed.
    pub fn new(shared: &Arc<Shared>, runner: u64, blocks: usize) -> Result<Recorder> {
        let to_fill = filled(blocks);
        let filling = to_fill.len();
        let latency = [latency_histogram()?, latency_histogram()?];
        Ok(Recorder { shared: shared.clone(), runner, blocks, to_fill, filling, history: History::default(), latency })
    }

    /// Blocks to write now rather than any others, at most `max`: a baton, or the next part of the fill.
    pub fn wants(&mut self, max: usize, is_free: impl Fn(usize) -> bool) -> Option<Range<usize>> {
        let mine = (0..BATONS).find(|baton| self.shared.relay.is_turn(*baton, self.runner) && is_free(*baton));
        if let Some(baton) = mine {
            return Some(baton..baton + 1);
        }
        let start = self.to_fill.start;
        self.to_fill.start = self.to_fill.end.min(start + max);
        Some(start..self.to_fill.start).filter(|blocks| !blocks.is_empty())
    }

    /// Where random requests go now: a quarter of the stripe, which moves on within the part filled.
    pub fn window(&self) -> Range<usize> {
        let filled = filled(self.blocks);
        let start = filled.start + self.shared.step.load(Ordering::Relaxed).min(2) * self.blocks / 8;
        start..filled.end.min(start + self.blocks / 4)
    }

    /// Notes a change before the device can see it; says whose latency its is.
    pub fn submitted(&mut self, effect: Effect, blocks: &Range<usize>) -> Option<Phase> {
        self.history.submitted(self.shared.clock.tick(), effect, blocks);
        self.shared.phase()
    }

    /// Notes that a change is done.
    pub fn completed(&mut self, generation: u64, blocks: &Range<usize>) {
        self.history.completed(generation, self.shared.clock.tick());
        if blocks.start < BATONS {
            self.shared.relay.pass(blocks.start);
        } else if self.filling > 0 {
            // Nothing else is written before the whole fill is on its way.
            self.filling = self.filling.saturating_sub(blocks.len());
            if self.filling == 0 {
                self.shared.unfilled.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Counts the latency of a write.
    pub fn latency(&mut self, phase: Option<Phase>, took: Duration) {
        let [before, during] = &mut self.latency;
        let histogram = match phase {
            Some(Phase::Before) => before,
            Some(Phase::During) => during,
            None => return,
        };
        histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripe_is_filled_once_and_without_gaps_before_anything_else() {
        let shared = Shared::new(2);
        let mut recorder = Recorder::new(&shared, 1, 1024).unwrap();
        let (mut end, mut generation) = (BATONS, 0);
        while let Some(blocks) = recorder.wants(16, |_| true) {
            assert_eq!(blocks.start, end);
            end = blocks.end;
            recorder.submitted(Effect::Write, &blocks);
            generation += 1;
            recorder.completed(generation, &blocks);
        }
        assert_eq!(end, filled(1024).end);
        assert!(!shared.is_filled(), "the other worker has not begun");
    }

    #[test]
    fn random_requests_stay_in_what_is_filled_and_away_from_the_batons() {
        let shared = Shared::new(1);
        let recorder = Recorder::new(&shared, 0, 1024).unwrap();
        let mut windows = Vec::new();
        for _ in 0..5 {
            windows.push(recorder.window());
            shared.advance();
        }
        let filled = filled(1024);
        assert!(windows.iter().all(|window| window.start >= filled.start && window.end <= filled.end));
        assert!(windows[0].start < windows[1].start && windows[1].start < windows[2].start, "{windows:?}");
    }
}
