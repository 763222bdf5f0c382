//! The first part: a disk under load, its serving process killed in the middle, every byte verified at the end.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use tidemark_frontend::Device;

use super::report::crash::Report;
use super::serving::Serving;
use super::stripe::Stripe;
use super::worker::{Outcome, Stop, Worker};
use super::{DemoOptions, TICK, connect, create_disk, joined, verify, workers};

/// What the kill cost.
pub struct Crash {
    /// Requests in flight at the kill.
    pub in_flight: u64,
    /// From the kill until every queue was resumed.
    pub outage: Duration,
}

/// Runs the part in `dir`, with `program serve` as the serving process.
///
/// # Errors
/// If anything cannot be started, a request fails or does not complete, or a single byte differs.
pub fn run(program: &Path, dir: &Path, options: &DemoOptions, seed: u64) -> Result<Report> {
    let size = u64::from(options.size) << 20;
    println!("disk of {} MiB, {} queues, depth {}, seed {seed}", options.size, options.queues, options.depth);
    let disk = dir.join("disk.raw");
    create_disk(&disk, size)?;
    let mut serving = Serving::start(program, dir, std::slice::from_ref(&disk))?;
    let socket = serving.sockets().into_iter().next().context("no socket")?;
    let mut device = connect(&mut serving, &socket, size, options)?;
    ensure!(device.inflight().is_some(), "the serving process does not track requests in flight");

    let workers = workers(&mut device, size, options, seed)?;
    let (outcomes, crash) = load(workers, &mut device, &mut serving, options)?;
    let load_time = Duration::from_secs(u64::from(options.seconds));
    let cpu = serving.cpu_time()?;
    let stripes: Vec<Stripe> = outcomes.iter().map(|outcome| outcome.stripe.clone()).collect();
    let through_socket = verify::through_socket(&mut device, &stripes, seed)?;
    drop(device);
    serving.stop()?;
    let in_file = verify::in_file(&disk, &stripes, seed)?;
    Ok(Report { outcomes, load_time, cpu, crash, through_socket, in_file })
}

/// Runs all workers for the time given, with the kill in the middle.
fn load(
    workers: Vec<Worker>,
    device: &mut Device,
    serving: &mut Serving,
    options: &DemoOptions,
) -> Result<(Vec<Outcome>, Crash)> {
    let stop = Stop::default();
    let in_flight: Vec<_> = workers.iter().map(Worker::in_flight).collect();
    thread::scope(|scope| {
        let stop = &stop;
        let spawn = |worker: Worker| scope.spawn(move || worker.run(stop));
        let threads: Vec<_> = workers.into_iter().map(spawn).collect();
        let crash = conduct(device, serving, options, stop, || {
            in_flight.iter().map(|count| count.load(Ordering::Relaxed)).sum()
        });
        stop.after(&crash);
        let outcomes = joined(threads);
        // The first cause: a worker that failed ends the load early, a process that is gone makes workers give up.
        let crash = crash?;
        Ok((outcomes?, crash.context("the load ended before the kill")?))
    })
}

/// Watches the clock; kills and restarts at half time. `None` if a worker ended the load before.
fn conduct(
    device: &mut Device,
    serving: &mut Serving,
    options: &DemoOptions,
    stop: &Stop,
    in_flight: impl Fn() -> u64,
) -> Result<Option<Crash>> {
    let bar = ProgressBar::new(u64::from(options.seconds) * 1000);
    bar.set_style(ProgressStyle::with_template("{msg:34} {wide_bar} {percent:>3} %")?);
    bar.set_message("reading, writing, verifying");
    let (start, total) = (Instant::now(), Duration::from_secs(u64::from(options.seconds)));
    let mut crash = None;
    while start.elapsed() < total && !stop.is_set() {
        if crash.is_none() && start.elapsed() >= total / 2 {
            bar.set_message("killed; serving again");
            crash = Some(kill_and_resume(device, serving, &in_flight)?);
        }
        serving.ensure_running()?;
        ensure!(!device.is_closed(), "the serving process hung up");
        bar.set_position(u64::try_from(start.elapsed().as_millis())?);
        thread::sleep(TICK);
    }
    bar.finish_and_clear();
    Ok(crash)
}

fn kill_and_resume(device: &mut Device, serving: &mut Serving, in_flight: impl Fn() -> u64) -> Result<Crash> {
    let killed = Instant::now();
    serving.kill()?;
    let in_flight = in_flight();
    serving.start_again()?;
    serving.until_reached(|| device.reconnect()).context("connecting to the restarted process")?;
    Ok(Crash { in_flight, outage: killed.elapsed() })
}
