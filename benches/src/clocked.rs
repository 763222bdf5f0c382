//! A guest that notes how long each of its requests takes: one thread that polls the queues of all its devices.
//!
//! A plan says what comes next on a queue, and when it ends; a request that fails ends the run.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use tidemark_frontend::{Device, GuestBuf, Queue, Request, Status};

use crate::daemon::Guest;

/// A guest that looks at its queues this much later has not been running.
const GAP: Duration = Duration::from_micros(100);
/// Longer than any request may take here.
const PATIENCE: Duration = Duration::from_secs(60);

/// One request of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Where on the disk.
    pub offset: u64,
    /// A write, or else a read.
    pub is_write: bool,
}

/// A request that has completed; times in nanoseconds of the run.
#[derive(Clone, Copy, Debug)]
pub struct Completed {
    /// When it was sent.
    pub sent: u64,
    /// How long it took.
    pub took: u64,
    /// A write, or else a read.
    pub is_write: bool,
}

/// What a run gave.
#[derive(Debug, Default)]
pub struct Timed {
    /// The requests, as they completed.
    pub requests: Vec<Completed>,
    /// From the first request to the last completion.
    pub elapsed: Duration,
    /// When the guest did not look at its queues for longer than 0.1 ms, in nanoseconds of the run.
    pub gaps: Vec<Range<u64>>,
}

impl Timed {
    /// Nanoseconds of each read.
    pub fn reads_ns(&self) -> Vec<u64> {
        self.requests.iter().filter(|request| !request.is_write).map(|request| request.took).collect()
    }

    /// Nanoseconds of each write.
    pub fn writes_ns(&self) -> Vec<u64> {
        self.requests.iter().filter(|request| request.is_write).map(|request| request.took).collect()
    }

    /// Nanoseconds of each request.
    pub fn all_ns(&self) -> Vec<u64> {
        self.requests.iter().map(|request| request.took).collect()
    }
}

/// A queue with its buffers and what is in flight there.
struct Lane {
    queue: Queue,
    bufs: Vec<GuestBuf>,
    next_buf: usize,
    /// By slot: when it was sent, in nanoseconds of the run, and whether it is a write.
    sent: Vec<(u64, bool)>,
}

/// The guest.
pub struct Clocked {
    /// A device that is dropped disconnects.
    _devices: Vec<Device>,
    lanes: Vec<Lane>,
    depth: u16,
}

impl Clocked {
    /// A guest of some devices with `depth` requests of `len` bytes in flight on each queue.
    ///
    /// # Errors
    /// If the guest's memory is too small.
    pub fn new(guests: Vec<Guest>, depth: u16, len: u32) -> Result<Clocked> {
        let (mut devices, mut lanes) = (Vec::new(), Vec::new());
        for Guest { mut device, queues, .. } in guests {
            for queue in queues {
                let bufs = (0..depth).map(|_| device.arena().alloc(len, 4096)).collect::<Result<Vec<_>, _>>()?;
                let sent = vec![(0, false); usize::from(queue.size())];
                lanes.push(Lane { queue, bufs, next_buf: 0, sent });
            }
            devices.push(device);
        }
        Ok(Clocked { _devices: devices, lanes, depth })
    }

    /// Runs `plan` until it says `None` and everything has completed. The first requests are spread over `ramp`, so
    /// that requests of equal latency do not come in one burst for ever. `between` is called at every turn.
    ///
    /// # Errors
    /// If a request fails or takes a minute; what `between` returns.
    pub fn run(
        &mut self,
        ramp: Duration,
        mut plan: impl FnMut(Duration) -> Option<Operation>,
        mut between: impl FnMut(Duration) -> Result<()>,
    ) -> Result<Timed> {
        let mut timed = Timed::default();
        let start = Instant::now();
        let (mut planned, mut last, mut ended) = (true, Duration::ZERO, Duration::ZERO);
        while planned || self.lanes.iter().any(|lane| lane.queue.in_flight() > 0) {
            let now = start.elapsed();
            if now - last > GAP {
                timed.gaps.push(nanoseconds(last)..nanoseconds(now));
            }
            last = now;
            let depth = self.depth_at(now, ramp);
            for lane in &mut self.lanes {
                if lane.reap(start, &mut timed)? > 0 {
                    ended = start.elapsed();
                }
                while planned && lane.queue.in_flight() < depth {
                    match plan(now) {
                        Some(operation) => lane.send(operation, start)?,
                        None => planned = false,
                    }
                }
                lane.queue.publish()?;
            }
            between(now)?;
            anyhow::ensure!(planned || now < ended + PATIENCE, "requests are not completed");
        }
        timed.elapsed = ended;
        Ok(timed)
    }

    fn depth_at(&self, now: Duration, ramp: Duration) -> u16 {
        if now >= ramp {
            return self.depth;
        }
        let share = now.as_nanos() * u128::from(self.depth) / ramp.as_nanos().max(1);
        u16::try_from(share).unwrap_or(self.depth).max(1)
    }
}

impl Lane {
    fn send(&mut self, Operation { offset, is_write }: Operation, start: Instant) -> Result<()> {
        // Completions come in any order, so two requests may share a buffer for a while. Nobody looks at the data.
        self.next_buf = (self.next_buf + 1) % self.bufs.len();
        let data = self.bufs.get(self.next_buf..=self.next_buf).unwrap_or_default();
        let request = if is_write { Request::Write { offset, data } } else { Request::Read { offset, data } };
        let token = self.queue.enqueue(&request)?;
        if let Some(sent) = self.sent.get_mut(usize::from(token.slot)) {
            *sent = (nanoseconds(start.elapsed()), is_write);
        }
        Ok(())
    }

    fn reap(&mut self, start: Instant, timed: &mut Timed) -> Result<usize> {
        let mut count = 0;
        while let Some(done) = self.queue.pop()? {
            anyhow::ensure!(done.status == Status::Ok, "a request ended with {:?}", done.status);
            let (sent, is_write) = self.sent.get(usize::from(done.token.slot)).copied().unwrap_or_default();
            let took = nanoseconds(start.elapsed()).saturating_sub(sent);
            timed.requests.push(Completed { sent, took, is_write });
            count += 1;
        }
        Ok(count)
    }
}

/// Nanoseconds of a duration that is not centuries.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The value below which `share` of the samples lie; 0 without any.
pub fn percentile(samples: &[u64], share: f64) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among samples of one measurement"
    )]
    let rank = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_sample_of_its_rank() {
        let samples: Vec<u64> = (1..=200).rev().collect();
        for (share, expected) in [(0.5, 100), (0.99, 198), (1.0, 200), (0.0, 1)] {
            assert_eq!(percentile(&samples, share), expected, "{share}");
        }
        assert_eq!(percentile(&[], 0.99), 0);
    }
}
