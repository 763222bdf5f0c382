//! When the machine did not let run what should have: threads that sleep, on the core of the daemon, beside whatever it
//! does there, and the times the guest did not look at its queues.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// What each of them sleeps at a time.
const NAP: Duration = Duration::from_millis(4);
/// How many there are: as many as the daemon has queues. They wake in turn, one every 0.25 ms, so that a core that stands
/// still for a millisecond makes one of them late by nearly all of it.
const SLEEPERS: u32 = 16;
/// Whoever wakes this much too late has been kept from running; less is the timer's.
const LATE: Duration = Duration::from_micros(100);

/// Threads that sleep.
pub struct Sleepers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Range<u64>>>>>,
}

impl Sleepers {
    /// Starts them on a core.
    pub fn start(core: usize) -> Sleepers {
        let (over, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let start = |number| {
            let over = over.clone();
            thread::spawn(move || sleep(core, began, NAP * number / SLEEPERS, &over))
        };
        Sleepers { threads: (0..SLEEPERS).map(start).collect(), over }
    }

    /// Ends them; from when they should have run until they did, in nanoseconds since they were started.
    ///
    /// # Errors
    /// If a thread could not be pinned.
    pub fn end(self) -> Result<Vec<Range<u64>>> {
        self.over.store(true, Ordering::Relaxed);
        let mut late = Vec::new();
        for thread in self.threads {
            late.extend(thread.join().map_err(|_| anyhow::anyhow!("a sleeper panicked"))??);
        }
        Ok(late)
    }
}

fn sleep(core: usize, began: Instant, first: Duration, over: &AtomicBool) -> Result<Vec<Range<u64>>> {
    let mut own = CpuSet::new();
    own.set(core);
    sched_setaffinity(None, &own).context("cannot pin a sleeper")?;
    let (mut late, mut due) = (Vec::new(), first);
    while !over.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_sub(began.elapsed()));
        let woke = began.elapsed();
        if woke > due + LATE {
            late.push(u64::try_from(due.as_nanos())?..u64::try_from(woke.as_nanos())?);
        }
        while due <= woke {
            due += NAP;
        }
    }
    Ok(late)
}

/// The times when something did not run, in order and apart from each other.
pub struct Stalls(Vec<Range<u64>>);

impl Stalls {
    /// Of these times, which may overlap.
    pub fn new(mut times: Vec<Range<u64>>) -> Stalls {
        times.sort_unstable_by_key(|time| time.start);
        let mut apart: Vec<Range<u64>> = Vec::new();
        for time in times {
            match apart.last_mut() {
                Some(last) if time.start <= last.end => last.end = last.end.max(time.end),
                _ => apart.push(time),
            }
        }
        Stalls(apart)
    }

    /// How much of a time was one of these.
    pub fn within(&self, time: &Range<u64>) -> u64 {
        let first = self.0.partition_point(|stall| stall.end <= time.start);
        let stalls = self.0.iter().skip(first).take_while(|stall| stall.start < time.end);
        stalls.map(|stall| stall.end.min(time.end) - stall.start.max(time.start)).sum()
    }

    /// The longest.
    pub fn longest(&self) -> u64 {
        self.0.iter().map(|stall| stall.end - stall.start).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_two_were_kept_from_running_in_passed_once() {
        let stalls = Stalls::new(vec![50..60, 10..20, 15..30, 30..31]);
        assert_eq!(stalls.longest(), 21);
        for (time, expected) in [(0..100, 31), (0..10, 0), (12..17, 5), (31..50, 0), (25..55, 11), (60..70, 0)] {
            assert_eq!(stalls.within(&time), expected, "{time:?}");
        }
    }
}
