//! The second part: two disks under load, a full backup and two incremental ones of both, each proven to show one
//! moment.
//!
//! The workers write from the beginning to the end; nobody tells them of backups. What proves the backups is their
//! record alone ([`super::proof`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::statvfs;
use tidemark_frontend::Device;

use super::points::{Point, Points};
use super::proof::{Proof, Record, prove};
use super::recorder::{Recorder, Shared};
use super::report::backup::{Report, Row};
use super::serving::Serving;
use super::stripe::{Stripe, divide};
use super::worker::{Outcome, Stop, Worker};
use super::{DemoOptions, TICK, connect, create_disk, joined, verify, workers};

const DISKS: usize = 2;
/// The full backup and the incremental ones.
const POINTS: usize = 3;
/// Load before the first backup.
const CALM: Duration = Duration::from_secs(5);
/// Load before each of the others and after the last.
const BETWEEN: Duration = Duration::from_secs(2);

/// Runs the part in `dir`, with `program serve` as the serving process.
///
/// # Errors
/// If anything cannot be started or is refused, a request or a job fails, or a single byte is not legal.
pub fn run(program: &Path, dir: &Path, options: &DemoOptions, seed: u64) -> Result<Report> {
    let size = u64::from(options.backup_size) << 20;
    println!("{DISKS} disks of {} MiB, {} queues each, depth {}", options.backup_size, options.queues, options.depth);
    ensure_space(dir, size)?;
    let disks: Vec<PathBuf> = (0..DISKS).map(|disk| dir.join(format!("disk{disk}.raw"))).collect();
    disks.iter().try_for_each(|disk| create_disk(disk, size))?;
    let mut serving = Serving::start(program, dir, &disks)?;
    let sockets = serving.sockets();
    let mut devices = Vec::new();
    for socket in &sockets {
        devices.push(connect(&mut serving, socket, size, options)?);
    }
    let shared = Shared::new(u64::from(options.queues) * DISKS as u64);
    let workers = recorded(&mut devices, &shared, size, options, seed)?;
    let points = Points::new(serving.control(), dir, DISKS, size)?;
    let (outcomes, points) = load(workers, points, &mut serving, &shared)?;
    let stripes: Vec<Vec<Stripe>> =
        outcomes.iter().map(|disk| disk.iter().map(|outcome| outcome.stripe.clone()).collect()).collect();
    let mut through_socket = 0;
    for (device, stripes) in devices.iter_mut().zip(&stripes) {
        through_socket += verify::through_socket(device, stripes, seed)?;
    }
    drop(devices);
    serving.stop()?;
    for (disk, stripes) in disks.iter().zip(&stripes) {
        verify::in_file(disk, stripes, seed)?;
    }
    let rows = rows(points, &outcomes, seed)?;
    let passed = shared.relay.passed();
    Ok(Report { rows, outcomes: outcomes.into_iter().flatten().collect(), passed, through_socket })
}

/// Disks and backups are filled by half; files that share take less.
fn ensure_space(dir: &Path, size: u64) -> Result<()> {
    let needed = size / 2 * (DISKS * (1 + POINTS)) as u64;
    let space = statvfs(dir).context("asking for free space")?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let shown = dir.display();
    ensure!(
        free >= needed,
        "{shown} has {free} bytes free, and up to {needed} are needed; set TMPDIR to a larger place or --backup-size \
         to less"
    );
    Ok(())
}

/// The workers of all disks. A baton goes from disk to disk first, then to the next queue.
fn recorded(
    devices: &mut [Device],
    shared: &Arc<Shared>,
    size: u64,
    options: &DemoOptions,
    seed: u64,
) -> Result<Vec<Vec<Worker>>> {
    let blocks: Vec<usize> = divide(size, options.queues).iter().map(Stripe::blocks).collect();
    let mut all = Vec::new();
    for (disk, device) in devices.iter_mut().enumerate() {
        let mut recorded = Vec::new();
        for (queue, worker) in workers(device, size, options, seed)?.into_iter().enumerate() {
            let blocks = *blocks.get(queue).context("a queue without a stripe")?;
            let recorder = Recorder::new(shared, (queue * DISKS + disk) as u64, blocks)?;
            recorded.push(worker.with_recorder(recorder));
        }
        all.push(recorded);
    }
    Ok(all)
}

/// Runs all workers while the points are taken.
fn load(
    workers: Vec<Vec<Worker>>,
    points: Points,
    serving: &mut Serving,
    shared: &Shared,
) -> Result<(Vec<Vec<Outcome>>, Vec<Point>)> {
    let stop = Stop::default();
    thread::scope(|scope| {
        let stop = &stop;
        let spawn = |worker: Worker| scope.spawn(move || worker.run(stop));
        let threads: Vec<Vec<_>> =
            workers.into_iter().map(|disk| disk.into_iter().map(spawn).collect::<Vec<_>>()).collect();
        let taker = scope.spawn(move || take_points(points, shared, stop));
        let watched = watch(serving, stop, || taker.is_finished());
        let taken = match taker.join() {
            Ok(taken) => taken,
            Err(_) => bail!("the thread that takes backups panicked"),
        };
        let fine = watched.and(taken);
        stop.after(&fine);
        let outcomes: Vec<Result<Vec<Outcome>>> = threads.into_iter().map(joined).collect();
        match (outcomes.into_iter().collect::<Result<_>>(), fine) {
            (Ok(outcomes), Ok(points)) => Ok((outcomes, points)),
            // A worker that failed is the cause of what else failed, unless it was told to give up.
            (Err(error), _) if !stop.is_abandoned() => Err(error),
            (_, Err(error)) | (Err(error), _) => Err(error),
        }
    })
}

/// Sees to it that nothing waits for ever: when a worker has failed, nobody answers commands any more.
fn watch(serving: &mut Serving, stop: &Stop, is_done: impl Fn() -> bool) -> Result<()> {
    while !is_done() {
        serving.ensure_running()?;
        if stop.is_set() {
            return serving.kill();
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// The course of the load, seen from whoever takes backups.
fn take_points(mut points: Points, shared: &Shared, stop: &Stop) -> Result<Vec<Point>> {
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg}, {elapsed}")?);
    bar.enable_steady_tick(TICK * 2);
    bar.set_message("filling the disks");
    while !shared.is_filled() {
        ensure!(!stop.is_set(), "the load has ended");
        thread::sleep(TICK);
    }
    let mut taken = Vec::new();
    for number in 0..POINTS {
        bar.set_message("writing, reading, verifying");
        shared.set_calm(number == 0);
        thread::sleep(if number == 0 { CALM } else { BETWEEN });
        shared.set_calm(false);
        let kind = if number == 0 { "full" } else { "incremental" };
        bar.set_message(format!("{kind} backup of both disks, still writing"));
        shared.set_backup(true);
        taken.push(points.take(&shared.clock).with_context(|| format!("{kind} backup"))?);
        shared.set_backup(false);
        shared.advance();
    }
    thread::sleep(BETWEEN);
    bar.finish_and_clear();
    Ok(taken)
}

/// Proves each point and tells what the table says of it. All of it has to be above zero.
fn rows(points: Vec<Point>, outcomes: &[Vec<Outcome>], seed: u64) -> Result<Vec<Row>> {
    let (mut rows, mut before): (Vec<Row>, Option<Proof>) = (Vec::new(), None);
    for point in points {
        let mut disks = Vec::new();
        for (file, outcomes) in point.files.iter().zip(outcomes) {
            disks.push((file.as_path(), outcomes.iter().filter_map(record).collect()));
        }
        let proof = prove(&disks, point.moment, seed)?;
        let changed = before.as_ref().map_or_else(|| proof.written(), |before| proof.changed_since(before));
        let histories = outcomes.iter().flatten().filter_map(|outcome| outcome.recorder.as_ref());
        let in_flight = histories.map(|recorder| recorder.history.in_flight(proof.moment)).sum();
        for (what, count) in [
            ("bytes changed", changed),
            ("bytes copied", point.copied),
            ("copies before writes", point.before_writes),
            ("writes in flight at its moment", in_flight),
        ] {
            ensure!(count > 0, "a backup without {what} shows nothing");
        }
        rows.push(Row { point, changed, in_flight, verified: proof.verified });
        before = Some(proof);
    }
    Ok(rows)
}

fn record(outcome: &Outcome) -> Option<Record<'_>> {
    let (stripe, recorder) = (&outcome.stripe, outcome.recorder.as_ref()?);
    Some(Record { offset: stripe.offset, blocks: stripe.blocks(), history: &recorder.history })
}
