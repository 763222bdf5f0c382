//! The guest: one thread that polls all queues and keeps each at its depth.
//!
//! A request that fails ends the run: a number measured on errors means nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use fastrand::Rng;
use tidemark_frontend::{GuestBuf, Request, Status};

use crate::case::Case;
use crate::cpu::CpuTime;
use crate::daemon::Guest;

/// Time under load before measuring: adaptive polling and caches settle.
const WARM_UP: Duration = Duration::from_millis(50);
/// Turns of the poll loop between two looks at the clock.
const TURNS_PER_CLOCK: u32 = 64;

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests per second.
    pub iops: f64,
    /// Microseconds of CPU per request in the process measured.
    pub cpu_us_per_io: f64,
}

/// A guest with its buffers and its place in the sequence.
pub struct Load {
    guest: Guest,
    case: Case,
    blocks: u64,
    rng: Rng,
    next_block: u64,
    /// As many per queue as the depth, used in turn.
    bufs: Vec<Vec<GuestBuf>>,
    next_buf: usize,
}

impl Load {
    /// Makes buffers in the guest's memory, `size` being the disk's.
    ///
    /// # Errors
    /// If its memory is too small.
    pub fn new(case: &Case, size: u64, mut guest: Guest) -> Result<Load> {
        let len = case.pattern.block_size();
        let mut bufs = Vec::new();
        for _ in &guest.queues {
            bufs.push((0..case.depth).map(|_| guest.device.arena().alloc(len, 4096)).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(Load {
            guest,
            case: *case,
            blocks: size / u64::from(len),
            rng: Rng::with_seed(7),
            next_block: 0,
            bufs,
            next_buf: 0,
        })
    }

    /// Puts the daemon under load for `duration` and says what it cost.
    ///
    /// # Errors
    /// As [`Load::run`]; if the daemon has ended.
    pub fn measure(&mut self, duration: Duration) -> Result<Sample> {
        self.run(WARM_UP)?;
        let before = CpuTime::of(self.guest.pid)?;
        let start = Instant::now();
        let count = self.run(duration)?;
        let elapsed = start.elapsed();
        let cpu_ns = CpuTime::of(self.guest.pid)?.since(&before);
        let ios = as_f64(count.max(1));
        Ok(Sample { iops: ios / elapsed.as_secs_f64(), cpu_us_per_io: as_f64(cpu_ns) / ios / 1000.0 })
    }

    /// Fills the queues, keeps them full for `duration`, waits for the rest; says how many requests completed.
    ///
    /// # Errors
    /// If a request fails or is not completed within 30 seconds.
    pub fn run(&mut self, duration: Duration) -> Result<u64> {
        for index in 0..self.guest.queues.len() {
            for _ in 0..self.case.depth {
                self.enqueue(index)?;
            }
            publish(&mut self.guest, index)?;
        }
        let deadline = Instant::now() + duration;
        let mut count = 0;
        let mut turns = 0u32;
        while !turns.is_multiple_of(TURNS_PER_CLOCK) || Instant::now() < deadline {
            turns = turns.wrapping_add(1);
            for index in 0..self.guest.queues.len() {
                let completed = reap(&mut self.guest, index)?;
                for _ in 0..completed {
                    self.enqueue(index)?;
                }
                publish(&mut self.guest, index)?;
                count += completed;
            }
        }
        let stuck = Instant::now() + Duration::from_secs(30);
        while self.guest.queues.iter().any(|queue| queue.in_flight() > 0) {
            anyhow::ensure!(Instant::now() < stuck, "requests are not completed");
            for index in 0..self.guest.queues.len() {
                count += reap(&mut self.guest, index)?;
            }
        }
        Ok(count)
    }

    #[inline]
    fn enqueue(&mut self, index: usize) -> Result<()> {
        let block = if self.case.pattern.is_random() {
            self.rng.u64(..self.blocks)
        } else {
            self.next_block = (self.next_block + 1) % self.blocks;
            self.next_block
        };
        let offset = block * u64::from(self.case.pattern.block_size());
        let (Some(queue), Some(bufs)) = (self.guest.queues.get_mut(index), self.bufs.get(index)) else { return Ok(()) };
        // Completions come in any order, so two requests may share a buffer for a while. Nobody looks at the data.
        self.next_buf = (self.next_buf + 1) % bufs.len();
        let data = bufs.get(self.next_buf..=self.next_buf).unwrap_or_default();
        let request =
            if self.case.pattern.writes() { Request::Write { offset, data } } else { Request::Read { offset, data } };
        queue.enqueue(&request)?;
        Ok(())
    }
}

#[inline]
fn publish(guest: &mut Guest, index: usize) -> Result<()> {
    if let Some(queue) = guest.queues.get_mut(index) {
        queue.publish()?;
    }
    Ok(())
}

#[inline]
fn reap(guest: &mut Guest, index: usize) -> Result<u64> {
    let Some(queue) = guest.queues.get_mut(index) else { return Ok(0) };
    let mut completed = 0;
    while let Some(done) = queue.pop()? {
        anyhow::ensure!(done.status == Status::Ok, "a request ended with {:?}", done.status);
        completed += 1;
    }
    if completed == 0 {
        std::hint::spin_loop();
    }
    Ok(completed)
}

/// Counts here stay far below 2^52.
#[allow(clippy::cast_precision_loss, reason = "counts and nanoseconds of one measurement are below 2^52")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}
