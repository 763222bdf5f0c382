//! Threads with a ring each that go over a disk together, stripe by stripe, watched from here.
//!
//! Knows no images. Whoever has taken a stripe does all of it; a run that goes on past its end may be taken along if
//! nobody has taken what comes next. An error or a signal ends all of them after what they have under way.

use crate::ctl::backup::interrupt::Interrupt;
use anyhow::{Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use qmp_lite::context::Context;
use std::io::{IsTerminal as _, stderr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::{Uring, Wait, Workers};
use tidemark_backend::reactor::{Handle, Reactor};

/// Bytes that are taken at a time; of every cluster size a multiple.
const STRIPE: u64 = 16 << 20;
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(5);

/// A disk that is gone over.
pub struct Sweep {
    start: u64,
    end: u64,
    /// Where nobody has taken anything yet.
    next: AtomicU64,
    /// Bytes that were gone over.
    done: AtomicU64,
    stopped: AtomicBool,
    failure: Mutex<Option<anyhow::Error>>,
}

/// What a thread does.
pub type Task = Arc<dyn Fn(Handle, Arc<Sweep>) -> Pin<Box<dyn Future<Output = Result<()>>>> + Send + Sync>;

impl Sweep {
    /// Of these bytes of a disk.
    pub fn new(bytes: Range<u64>) -> Arc<Self> {
        let Range { start, end } = bytes;
        let (next, done, stopped) = (AtomicU64::new(start), AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { start, end, next, done, stopped, failure: Mutex::default() })
    }

    /// Where they end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether all is to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The next stripe; `None` when there is none, or all is to end.
    pub fn take(&self) -> Option<Range<u64>> {
        if self.is_stopped() {
            return None;
        }
        let more = |next: u64| (next < self.end).then(|| next.saturating_add(STRIPE).min(self.end));
        let start = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(start..start.saturating_add(STRIPE).min(self.end))
    }

    /// Takes what nobody has taken before `end`, whole stripes: it is the caller's then, if it is anything.
    pub fn take_until(&self, end: u64) -> Range<u64> {
        let end = if end < self.end { end - (end - self.start) % STRIPE } else { self.end };
        let more = |next: u64| (next < end).then_some(end);
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(start) => start..end,
            Err(_) => end..end,
        }
    }

    /// So many bytes more were gone over.
    pub fn done(&self, len: u64) {
        self.done.fetch_add(len, Ordering::Relaxed);
    }

    /// Has everybody end.
    fn stop(&self, why: anyhow::Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn take_failure(&self) -> Option<anyhow::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Who goes over a disk.
pub struct Crew {
    /// Threads.
    pub threads: usize,
    /// What they do, for people; nothing is shown if there is no name.
    pub what: Option<String>,
}

impl Crew {
    /// Runs `task` on every thread until all have ended.
    ///
    /// # Errors
    /// The first of theirs; a signal came; the system has no ring or thread.
    pub fn run(&self, context: &Context, interrupt: &Interrupt, sweep: &Arc<Sweep>, task: &Task) -> Result<()> {
        let workers = Workers::new();
        let start = |number: usize| {
            let (graph, workers, sweep, task) = (context.graph.clone(), workers.clone(), sweep.clone(), task.clone());
            let run = move || {
                if let Err(error) = thread(&graph, workers, &sweep, &task) {
                    sweep.stop(error);
                }
            };
            std::thread::Builder::new().name(format!("copy-{number}")).spawn(run)
        };
        let mut threads = Vec::new();
        for number in 0..self.threads.max(1) {
            match start(number) {
                Ok(thread) => threads.push(thread),
                // The others do it alone.
                Err(_) if !threads.is_empty() => break,
                Err(error) => bail!("cannot start a thread: {error}"),
            }
        }
        let bar = self.bar(sweep.end - sweep.start)?;
        while threads.iter().any(|thread| !thread.is_finished()) {
            if let Some(signal) = interrupt.signal() {
                sweep.stop(anyhow!("signal {signal}"));
            }
            bar.iter().for_each(|bar| bar.set_position(sweep.done.load(Ordering::Relaxed)));
            std::thread::sleep(TICK);
        }
        bar.iter().for_each(ProgressBar::finish_and_clear);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread ended by a bug"))?;
        }
        sweep.take_failure().map_or(Ok(()), Err)
    }

    fn bar(&self, total: u64) -> Result<Option<ProgressBar>> {
        let Some(what) = self.what.clone().filter(|_| stderr().is_terminal()) else { return Ok(None) };
        let template = "{msg}: {bar:30} {percent:>3} %, {binary_bytes_per_sec}, {eta} left";
        let bar = ProgressBar::new(total).with_style(ProgressStyle::with_template(template)?);
        Ok(Some(bar.with_message(what)))
    }
}

/// One thread, with its own ring.
fn thread(graph: &Graph, workers: Arc<Workers>, sweep: &Arc<Sweep>, task: &Task) -> Result<()> {
    let ring = Uring::new(graph.files().clone(), workers)?;
    let mut reactor = Reactor::new(Box::new(ring))?;
    let (work, sweep) = (task(reactor.handle().clone(), sweep.clone()), sweep.clone());
    reactor.handle().spawn(async move {
        if let Err(error) = work.await {
            sweep.stop(error);
        }
    });
    while reactor.has_tasks() {
        reactor.turn(Wait::Forever, || false, |_| ());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_are_taken_once_and_runs_as_far_as_nobody_has_taken_them() {
        let end = 10 * STRIPE + 512;
        let sweep = Sweep::new(0..end);
        assert_eq!(sweep.take(), Some(0..STRIPE));
        assert_eq!(sweep.take(), Some(STRIPE..2 * STRIPE));
        assert!(sweep.take_until(2 * STRIPE - 1).is_empty(), "somebody has it");
        assert_eq!(sweep.take_until(5 * STRIPE + 1), 2 * STRIPE..5 * STRIPE, "whole stripes");
        assert_eq!(sweep.take(), Some(5 * STRIPE..6 * STRIPE));
        assert_eq!(sweep.take_until(end), 6 * STRIPE..end);
        assert_eq!(sweep.take(), None);
        assert!(sweep.take_until(end).is_empty());
        let sweep = Sweep::new(512..end);
        assert_eq!(sweep.take(), Some(512..STRIPE + 512));
        assert_eq!(sweep.take_until(3 * STRIPE), STRIPE + 512..2 * STRIPE + 512, "whole stripes from the beginning on");
    }

    #[test]
    fn after_an_error_nobody_takes_anything() {
        let sweep = Sweep::new(0..10 * STRIPE);
        sweep.stop(anyhow!("first"));
        sweep.stop(anyhow!("second"));
        assert_eq!(sweep.take(), None);
        assert_eq!(sweep.take_failure().unwrap().to_string(), "first");
    }
}
