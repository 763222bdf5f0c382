//! How late the machine lets a thread run that asked to be woken: threads that sleep, on the core of the daemon, beside
//! whatever it does there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// What each of them sleeps at a time.
const NAP: Duration = Duration::from_millis(100);
/// How many there are: as many as the daemon has queues.
const SLEEPERS: usize = 16;

/// Threads that sleep.
pub struct Sleepers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Duration>>>,
}

impl Sleepers {
    /// Starts them on a core.
    pub fn start(core: usize) -> Sleepers {
        let over = Arc::new(AtomicBool::new(false));
        let start = |_| {
            let over = over.clone();
            thread::spawn(move || sleep(core, &over))
        };
        Sleepers { threads: (0..SLEEPERS).map(start).collect(), over }
    }

    /// Ends them; the longest time by which one woke too late.
    ///
    /// # Errors
    /// If a thread could not be pinned.
    pub fn latest(self) -> Result<Duration> {
        self.over.store(true, Ordering::Relaxed);
        let mut latest = Duration::ZERO;
        for thread in self.threads {
            latest = latest.max(thread.join().map_err(|_| anyhow::anyhow!("a sleeper panicked"))??);
        }
        Ok(latest)
    }
}

fn sleep(core: usize, over: &AtomicBool) -> Result<Duration> {
    let mut own = CpuSet::new();
    own.set(core);
    sched_setaffinity(None, &own).context("cannot pin a sleeper")?;
    let mut latest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let asleep = Instant::now();
        thread::sleep(NAP);
        latest = latest.max(asleep.elapsed().saturating_sub(NAP));
    }
    Ok(latest)
}
