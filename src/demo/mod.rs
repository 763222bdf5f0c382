//! `tidemark demo`: a disk, its serving process and a guest's load on this machine, with nothing but this binary.
//!
//! The serving process is a child, this same program with `serve`; the guest is the front-end crate, a thread per
//! queue. In the middle the child is killed with SIGKILL and started again under load. Every block carries what it
//! should be, so that at the end each byte of the disk is known: read through the socket and from the file. One
//! difference fails the run.

mod block;
mod expect;
mod report;
mod serving;
mod stripe;
mod verify;
mod worker;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;
use tidemark_frontend::{Device, DeviceOptions, Notify};

use self::report::Report;
use self::serving::Serving;
use self::stripe::Stripe;
use self::worker::{BUFFER_LEN, Outcome, Stop, Worker};

/// One attempt to connect; in between it is seen whether the process still lives.
const CONNECT_ATTEMPT: Duration = Duration::from_millis(200);
/// How often progress is shown and the clock looked at.
const TICK: Duration = Duration::from_millis(50);

/// Shows the whole path at work: serves a temporary disk, loads it as a guest would, kills the serving process in the
/// middle and verifies every byte.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// Size of the disk in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub size: u32,
    /// Seconds of load; verification comes after.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub seconds: u32,
    /// Number of virtqueues, each with a thread of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// Requests each queue keeps in flight.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub depth: u16,
    /// Makes the same requests again [default: a random one, printed].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Leaves disk and log in their directory and says where.
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo and prints its table on standard output.
///
/// # Errors
/// If anything cannot be started, a request fails or does not complete, or a single byte differs.
pub fn run(options: DemoOptions) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let dir = tempfile::Builder::new().prefix("tidemark-demo-").tempdir().context("cannot create a directory")?;
    let done = run_in(&program, dir.path(), &options);
    if done.is_err() {
        let log = std::fs::read_to_string(dir.path().join(serving::LOG)).unwrap_or_default();
        eprintln!("log of the serving process:\n{log}");
    }
    finish(dir, options.keep);
    done?.print()
}

fn finish(dir: TempDir, keep: bool) {
    if keep {
        println!("kept: {}", dir.keep().display());
    }
}

/// The demo in `dir`, with `program serve` as the serving process.
fn run_in(program: &Path, dir: &Path, options: &DemoOptions) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let size = u64::from(options.size) << 20;
    println!("disk of {} MiB, {} queues, depth {}, seed {seed}", options.size, options.queues, options.depth);
    let disk = dir.join("disk.raw");
    let sized = File::create_new(&disk).and_then(|file| file.set_len(size));
    sized.with_context(|| format!("cannot create {}", disk.display()))?;
    let mut serving = Serving::start(program, dir, &disk)?;
    let socket = serving.socket().to_owned();
    let mut device =
        serving.until_reached(|| Device::connect(&socket, device_options(options))).context("connecting as a guest")?;
    let capacity = device.config()?.capacity_bytes();
    ensure!(capacity == size, "the device has {capacity} bytes, the disk {size}");
    ensure!(device.inflight().is_some(), "the serving process does not track requests in flight");

    let workers = workers(&mut device, options, seed)?;
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

fn device_options(options: &DemoOptions) -> DeviceOptions {
    let per_queue = u64::from(options.depth) * u64::from(BUFFER_LEN) + (1 << 20);
    DeviceOptions { connect_timeout: CONNECT_ATTEMPT, ..DeviceOptions::default() }
        .with_queues(options.queues, 256)
        .with_notify(Notify::Wait)
        .with_memory(((16 << 20) + u64::from(options.queues) * per_queue).next_multiple_of(1 << 20))
}

/// One worker per queue, each with its own stripe of the disk, so that no two write the same block.
fn workers(device: &mut Device, options: &DemoOptions, seed: u64) -> Result<Vec<Worker>> {
    let queues = device.start().context("starting the queues")?;
    let stripes = stripe::divide(u64::from(options.size) << 20, options.queues);
    let mut workers = Vec::new();
    for (queue, stripe) in queues.into_iter().zip(stripes) {
        let bufs = (0..options.depth).map(|_| device.arena().alloc(BUFFER_LEN, 4096));
        let bufs = bufs.collect::<Result<Vec<_>, _>>()?;
        workers.push(Worker::new(queue, device.memory(), bufs, stripe, seed)?);
    }
    Ok(workers)
}

/// What the kill cost.
struct Crash {
    /// Requests in flight at the kill.
    in_flight: u64,
    /// From the kill until every queue was resumed.
    outage: Duration,
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
        if crash.is_err() {
            stop.abandon();
        } else {
            stop.finish();
        }
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a queue's thread panicked"),
        });
        let outcomes: Vec<Result<Outcome>> = joined.collect();
        // The first cause: a worker that failed ends the load early, a process that is gone makes workers give up.
        let crash = crash?;
        let outcomes = outcomes.into_iter().collect::<Result<_>>()?;
        Ok((outcomes, crash.context("the load ended before the kill")?))
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
