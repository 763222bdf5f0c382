//! `tidemark demo`: disks, their serving process and a guest's load on this machine, with nothing but this binary.
//!
//! The serving process is a child, this same program with `serve`; the guest is the front-end crate, a thread per
//! queue. Two parts: in [`crash`] the child is killed with SIGKILL and started again under load; in [`backup`] two
//! disks are backed up, in full and twice incrementally, while the load goes on. Every block carries what it should be,
//! so that each byte of disks and backups is known. One difference fails the run.

mod backup;
mod block;
mod clone;
mod crash;
mod expect;
mod history;
mod points;
mod proof;
mod recorder;
mod relay;
mod report;
mod serving;
mod stripe;
mod verify;
mod worker;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tidemark_frontend::{Device, DeviceOptions, Notify};

use self::serving::Serving;
use self::worker::{BUFFER_LEN, Outcome, Worker};

/// One attempt to connect; in between it is seen whether the process still lives.
const CONNECT_ATTEMPT: Duration = Duration::from_millis(200);
/// How often progress is shown and the clock looked at.
const TICK: Duration = Duration::from_millis(50);

/// Shows that it works, on temporary disks and with every byte verified: a load as a guest's with a crash of the serving
/// process in the middle, then full and incremental backups of two disks under load.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// Size of the disk that is served when the crash comes, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub size: u32,
    /// Size of each of the two disks that are backed up, in MiB. Disks and backups take up to four times that.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub backup_size: u32,
    /// Seconds of load before and after the crash together; verification comes after.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub seconds: u32,
    /// Number of virtqueues of each disk, each with a thread of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// Requests each queue keeps in flight.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub depth: u16,
    /// Makes the same requests again [default: a random one, printed].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Leaves disks, backups and log in their directory and says where.
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo and prints its tables on standard output.
///
/// # Errors
/// If anything cannot be started, a request fails or does not complete, or a single byte differs.
pub fn run(options: DemoOptions) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let dir = tempfile::Builder::new().prefix("tidemark-demo-").tempdir().context("cannot create a directory")?;
    let done = run_in(&program, dir.path(), &options);
    finish(dir, options.keep);
    done
}

fn finish(dir: TempDir, keep: bool) {
    if keep {
        println!("kept: {}", dir.keep().display());
    }
}

fn run_in(program: &Path, dir: &Path, options: &DemoOptions) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    part(dir, "crash", |dir| crash::run(program, dir, options, seed)?.print())?;
    println!();
    part(dir, "backup", |dir| backup::run(program, dir, options, seed)?.print())
}

/// Runs a part in a directory of its own; its log is shown if it fails.
fn part(dir: &Path, name: &str, run: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = dir.join(name);
    std::fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    run(&dir).inspect_err(|_| {
        let log = std::fs::read_to_string(dir.join(serving::LOG)).unwrap_or_default();
        eprintln!("log of the serving process:\n{log}");
    })
}

/// Creates an empty disk.
fn create_disk(path: &Path, size: u64) -> Result<()> {
    let sized = File::create_new(path).and_then(|file| file.set_len(size));
    sized.with_context(|| format!("cannot create {}", path.display()))
}

/// Connects to a disk as a guest.
fn connect(serving: &mut Serving, socket: &PathBuf, size: u64, options: &DemoOptions) -> Result<Device> {
    let connect = || Device::connect(socket, device_options(options));
    let mut device = serving.until_reached(connect).context("connecting as a guest")?;
    let capacity = device.config()?.capacity_bytes();
    ensure!(capacity == size, "the device has {capacity} bytes, the disk {size}");
    Ok(device)
}

fn device_options(options: &DemoOptions) -> DeviceOptions {
    let per_queue = u64::from(options.depth) * u64::from(BUFFER_LEN) + (1 << 20);
    DeviceOptions { connect_timeout: CONNECT_ATTEMPT, ..DeviceOptions::default() }
        .with_queues(options.queues, 256)
        .with_notify(Notify::Wait)
        .with_memory(((16 << 20) + u64::from(options.queues) * per_queue).next_multiple_of(1 << 20))
}

/// One worker per queue, each with its own stripe of the disk, so that no two write the same block.
fn workers(device: &mut Device, size: u64, options: &DemoOptions, seed: u64) -> Result<Vec<Worker>> {
    let queues = device.start().context("starting the queues")?;
    let stripes = stripe::divide(size, options.queues);
    let mut workers = Vec::new();
    for (queue, stripe) in queues.into_iter().zip(stripes) {
        let bufs = (0..options.depth).map(|_| device.arena().alloc(BUFFER_LEN, 4096));
        let bufs = bufs.collect::<Result<Vec<_>, _>>()?;
        workers.push(Worker::new(queue, device.memory(), bufs, stripe, seed)?);
    }
    Ok(workers)
}

/// What the workers found, unless one of them failed.
fn joined(threads: Vec<std::thread::ScopedJoinHandle<'_, Result<Outcome>>>) -> Result<Vec<Outcome>> {
    let joined = threads.into_iter().map(|thread| match thread.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("a queue's thread panicked"),
    });
    // All are waited for before the first failure counts.
    let outcomes: Vec<Result<Outcome>> = joined.collect();
    outcomes.into_iter().collect()
}
