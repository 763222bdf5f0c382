//! One queue under load: random requests on its stripe, every read verified.
//!
//! The expected contents change when a request completes, never before; while the serving process is dead nothing
//! completes and the worker waits. It does not know that there was a kill.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use hdrhistogram::Histogram;
use tidemark_frontend::{Completion, GuestBuf, GuestMemory, Queue, Request, Status};

use super::block::BLOCK_LEN;
use super::expect::Expect;
use super::history::Effect;
use super::recorder::{Phase, Recorder};
use super::stripe::Stripe;

/// Longest request: 16 blocks.
const MAX_BLOCKS: usize = 16;
/// Bytes of a buffer.
pub const BUFFER_LEN: u32 = 65536;
/// How long nothing may complete while something is in flight, a restart included.
const STUCK: Duration = Duration::from_secs(60);
const TURN: Duration = Duration::from_millis(100);

/// What a worker found.
pub struct Outcome {
    /// What its part of the disk should hold now.
    pub stripe: Stripe,
    /// Nanoseconds from submission to completion.
    pub latency: Histogram<u64>,
    /// Requests by kind: read, write, discard, write-zeroes, flush.
    pub counts: [u64; 5],
    /// Bytes read and found right.
    pub verified: u64,
    /// Bytes written.
    pub written: u64,
    /// The record, if one was kept.
    pub recorder: Option<Recorder>,
}

/// An empty histogram of nanoseconds: up to ten minutes, three digits.
///
/// # Errors
/// None in practice: the bounds are fixed.
pub fn latency_histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000_000, 3)?)
}

/// How workers are told to end.
#[derive(Default)]
pub struct Stop {
    finish: AtomicBool,
    abandon: AtomicBool,
}

impl Stop {
    /// Nothing new; what is in flight is waited for.
    fn finish(&self) {
        self.finish.store(true, Ordering::Relaxed);
    }

    /// Nobody serves any more: what is in flight is given up.
    fn abandon(&self) {
        self.abandon.store(true, Ordering::Relaxed);
        self.finish();
    }

    /// The end for workers after what the load was for: a proper one, or one without anybody who serves.
    pub fn after<T>(&self, outcome: &Result<T>) {
        if outcome.is_err() { self.abandon() } else { self.finish() }
    }

    /// Whether what is in flight has been given up.
    pub fn is_abandoned(&self) -> bool {
        self.abandon.load(Ordering::Relaxed)
    }

    /// Whether the end has come.
    pub fn is_set(&self) -> bool {
        self.finish.load(Ordering::Relaxed)
    }
}

/// A queue, its buffers and its stripe.
pub struct Worker {
    queue: Queue,
    memory: GuestMemory,
    bufs: Vec<GuestBuf>,
    pending: Vec<Option<Pending>>,
    scratch: Vec<u8>,
    rng: Rng,
    seed: u64,
    generation: u64,
    in_flight: Arc<AtomicU64>,
    outcome: Outcome,
}

struct Pending {
    kind: Kind,
    /// Of a change.
    generation: u64,
    blocks: Range<usize>,
    buf: GuestBuf,
    since: Instant,
    phase: Option<Phase>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write,
    Discard,
    WriteZeroes,
    Flush,
}

impl Kind {
    fn index(self) -> usize {
        match self {
            Kind::Read => 0,
            Kind::Write => 1,
            Kind::Discard => 2,
            Kind::WriteZeroes => 3,
            Kind::Flush => 4,
        }
    }

    fn effect(self) -> Option<Effect> {
        match self {
            Kind::Read | Kind::Flush => None,
            Kind::Write => Some(Effect::Write),
            Kind::Discard => Some(Effect::Discard),
            Kind::WriteZeroes => Some(Effect::Zeroes),
        }
    }
}

impl Worker {
    /// A worker that keeps as many requests in flight as it has buffers.
    ///
    /// # Errors
    /// None in practice: the histogram's bounds are fixed.
    pub fn new(queue: Queue, memory: GuestMemory, bufs: Vec<GuestBuf>, stripe: Stripe, seed: u64) -> Result<Worker> {
        let pending = (0..queue.size()).map(|_| None).collect();
        let rng = Rng::with_seed(seed.wrapping_add(u64::from(queue.index())));
        let latency = latency_histogram()?;
        let outcome = Outcome { stripe, latency, counts: [0; 5], verified: 0, written: 0, recorder: None };
        let (scratch, in_flight) = (vec![0; BUFFER_LEN as usize], Arc::default());
        Ok(Worker { queue, memory, bufs, pending, scratch, rng, seed, generation: 0, in_flight, outcome })
    }

    /// Has the worker do what a recorder wants besides.
    #[must_use]
    pub fn with_recorder(mut self, recorder: Recorder) -> Worker {
        self.outcome.recorder = Some(recorder);
        self
    }

    /// Requests in flight, for whoever wants to know from outside.
    pub fn in_flight(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.in_flight)
    }

    /// Works until told to stop, then waits for what is in flight. An error stops all workers.
    ///
    /// # Errors
    /// If a request fails or does not complete, or a block differs.
    pub fn run(mut self, stop: &Stop) -> Result<Outcome> {
        let index = self.queue.index();
        let done = self.work(stop).with_context(|| format!("queue {index}"));
        if done.is_err() {
            stop.finish();
        }
        done.map(|()| self.outcome)
    }

    fn work(&mut self, stop: &Stop) -> Result<()> {
        let mut last_progress = Instant::now();
        loop {
            let stopping = stop.is_set();
            while !stopping && !self.bufs.is_empty() && self.start_one()? {}
            self.queue.publish()?;
            self.in_flight.store(u64::from(self.queue.in_flight()), Ordering::Relaxed);
            if stopping && self.queue.in_flight() == 0 {
                return Ok(());
            }
            ensure!(!stop.is_abandoned(), "given up");
            if self.queue.wait(TURN)? {
                last_progress = Instant::now();
            }
            let stuck = last_progress.elapsed() > STUCK;
            ensure!(!stuck, "{} requests in flight do not complete", self.queue.in_flight());
            while let Some(done) = self.queue.pop()? {
                self.complete(done)?;
            }
        }
    }

    /// Enqueues one request; false if the blocks it would need are in flight.
    fn start_one(&mut self) -> Result<bool> {
        let Some((kind, blocks)) = self.pick() else { return Ok(false) };
        let Some(buf) = self.bufs.pop() else { return Ok(false) };
        let bytes = blocks.len() * BLOCK_LEN;
        let (offset, len) = (self.outcome.stripe.block_offset(blocks.start), bytes as u64);
        self.generation += u64::from(kind.effect().is_some());
        let data = [GuestBuf { addr: buf.addr, len: u32::try_from(bytes)? }];
        let request = match kind {
            Kind::Read => Request::Read { offset, data: &data },
            Kind::Write => {
                let content = self.scratch.get_mut(..bytes).context("request longer than its buffer")?;
                self.outcome.stripe.fill(blocks.start, self.generation, self.seed, content);
                self.memory.write(buf.addr, content)?;
                self.outcome.written += len;
                Request::Write { offset, data: &data }
            }
            Kind::Discard => Request::Discard { offset, len },
            Kind::WriteZeroes => Request::WriteZeroes { offset, len, unmap: self.rng.bool() },
            Kind::Flush => Request::Flush,
        };
        let phase = match (kind.effect(), &mut self.outcome.recorder) {
            (Some(effect), Some(recorder)) => recorder.submitted(effect, &blocks),
            _ => None,
        };
        let token = self.queue.enqueue(&request)?;
        let slot = self.pending.get_mut(usize::from(token.slot)).context("token beyond the queue")?;
        *slot = Some(Pending { kind, generation: self.generation, blocks, buf, since: Instant::now(), phase });
        Ok(true)
    }

    /// The next request and its blocks, which are reserved; `None` if they are in flight.
    fn pick(&mut self) -> Option<(Kind, Range<usize>)> {
        let stripe = &mut self.outcome.stripe;
        let wanted = self.outcome.recorder.as_mut().and_then(|it| it.wants(MAX_BLOCKS, |block| stripe.is_free(block)));
        if let Some(blocks) = wanted {
            return stripe.reserve_all(blocks.clone()).then_some((Kind::Write, blocks));
        }
        let kind = choose(&mut self.rng);
        if let Kind::Flush = kind {
            return Some((kind, 0..0));
        }
        let window = self.outcome.recorder.as_ref().map_or(0..stripe.blocks(), Recorder::window);
        let max = self.rng.usize(1..=MAX_BLOCKS);
        stripe.reserve(window, max, &mut self.rng).map(|blocks| (kind, blocks))
    }

    fn complete(&mut self, done: Completion) -> Result<()> {
        let slot = self.pending.get_mut(usize::from(done.token.slot)).and_then(Option::take);
        let Pending { kind, generation, blocks, buf, since, phase } = slot.context("a request completed twice")?;
        ensure!(done.status == Status::Ok, "{kind:?} of blocks {blocks:?} ended with {:?}", done.status);
        let outcome = &mut self.outcome;
        let took = since.elapsed();
        outcome.latency.saturating_record(u64::try_from(took.as_nanos())?);
        if let (Some(_), Some(recorder)) = (kind.effect(), &mut outcome.recorder) {
            recorder.completed(generation, &blocks);
            recorder.latency(phase.filter(|_| kind.index() == Kind::Write.index()), took);
        }
        if let Kind::Read = kind {
            let data = self.scratch.get_mut(..blocks.len() * BLOCK_LEN).context("request longer than its buffer")?;
            self.memory.read(buf.addr, data)?;
            outcome.stripe.check(blocks.start, self.seed, data).context("reading back")?;
            outcome.verified += data.len() as u64;
        }
        if let Some(count) = outcome.counts.get_mut(kind.index()) {
            *count += 1;
        }
        let becomes = |was: Expect| kind.effect().map_or(was, |effect| was.after(effect, generation));
        outcome.stripe.settle(blocks, becomes);
        self.bufs.push(buf);
        Ok(())
    }
}

fn choose(rng: &mut Rng) -> Kind {
    match rng.u32(..1000) {
        0..500 => Kind::Read,
        500..960 => Kind::Write,
        960..975 => Kind::Discard,
        975..990 => Kind::WriteZeroes,
        _ => Kind::Flush,
    }
}
