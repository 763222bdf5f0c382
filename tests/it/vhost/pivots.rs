//! Disks under a guest's load that move from one file to another while they are used, by mirrors and active commits: every
//! byte that the guest reads, then and at the end, is what it wrote.
//!
//! `PIVOTS` in the environment says how often each kind pivots. What the guest's slowest requests took meanwhile, and
//! before, is printed.

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidemark_frontend::DeviceOptions;

use super::daemon::DISK;
use super::load::Load;
use super::mirrors::{NODES, add, job, serve};
use crate::cli::process::wait_until;
use crate::qmp::daemon::Client;

/// What a guest sees of a disk before it pivots, for as long, and while it does.
const PHASES: [&str; 2] = ["before", "during the pivot"];

fn pivots() -> usize {
    env::var("PIVOTS").map_or(4, |count| count.parse().expect("a number"))
}

/// Which phase of which pivot it is: `2 * pivot + phase`, and 1 more; 0 between them.
struct Moment(AtomicUsize);

impl Moment {
    /// Does something in a phase; says how long it took.
    fn during(&self, pivot: usize, phase: usize, work: impl FnOnce()) -> Duration {
        self.0.store(2 * pivot + phase + 1, Ordering::SeqCst);
        let begun = Instant::now();
        work();
        self.0.store(0, Ordering::SeqCst);
        begun.elapsed()
    }
}

/// What moves a disk from where it is to where it was.
trait Moves: Send {
    /// Starts a job and waits until it is ready.
    fn prepare(&mut self, qmp: &mut Client, pivot: usize);
    /// The node that has the disk after it.
    fn target(&self, pivot: usize) -> &'static str;
    /// Makes ready for the next.
    fn tidy_up(&mut self, qmp: &mut Client, pivot: usize);
}

/// Mirrors there and back, with these further arguments.
struct Mirrors(&'static str);

impl Moves for Mirrors {
    fn prepare(&mut self, qmp: &mut Client, pivot: usize) {
        let ((device, _), target, more) = (NODES[pivot % 2], self.target(pivot), self.0);
        qmp.succeed(&format!(
            "{{'execute': 'blockdev-mirror', 'arguments': {{'job-id': 'j', 'device': '{device}', 'target': '{target}', \
             'sync': 'full'{more}}}}}"
        ));
    }

    fn target(&self, pivot: usize) -> &'static str {
        NODES[(pivot + 1) % 2].0
    }

    /// The node that had the disk is closed and opened again, as another disk would be.
    fn tidy_up(&mut self, qmp: &mut Client, pivot: usize) {
        let name = NODES[pivot % 2].0;
        qmp.succeed(&format!("{{'execute': 'blockdev-del', 'arguments': {{'node-name': '{name}'}}}}"));
        add(qmp, pivot % 2);
    }
}

/// Snapshots that are committed at once.
struct Commits;

impl Moves for Commits {
    fn prepare(&mut self, qmp: &mut Client, pivot: usize) {
        qmp.succeed(&format!(
            "{{'execute': 'blockdev-snapshot-sync', 'arguments': {{'node-name': 'n', 'snapshot-file': 's{pivot}', \
             'snapshot-node-name': 's{pivot}'}}}}"
        ));
        // The guest has time to write something that has to be committed.
        thread::sleep(Duration::from_millis(20));
        qmp.succeed(&format!("{{'execute': 'block-commit', 'arguments': {{'job-id': 'j', 'device': 's{pivot}'}}}}"));
    }

    fn target(&self, _: usize) -> &'static str {
        "n"
    }

    fn tidy_up(&mut self, _: &mut Client, _: usize) {}
}

/// Pivots `count` times.
fn move_about(moves: &mut dyn Moves, qmp: &mut Client, count: usize, moment: &Moment) {
    let mut took = Duration::from_millis(5);
    for pivot in 0..count {
        moment.during(pivot, 0, || thread::sleep(took));
        moves.prepare(qmp, pivot);
        wait_until("the job is ready", || job(qmp).as_deref() == Some("ready"));
        took = moment.during(pivot, 1, || {
            qmp.succeed("{'execute': 'block-job-complete', 'arguments': {'device': 'j'}}");
            wait_until("the job has ended", || job(qmp).is_none());
        });
        let exports = qmp.succeed("{'execute': 'query-block-exports'}");
        assert_eq!(exports[0]["node-name"], moves.target(pivot));
        moves.tidy_up(qmp, pivot);
    }
}

/// Keeps the load going; what the slowest request took in each phase of each pivot.
fn go_on(load: &mut Load, moment: &Moment, is_over: impl Fn() -> bool, slowest: &mut [Duration]) {
    while !is_over() {
        let before = moment.0.load(Ordering::SeqCst);
        load.steps(10);
        let phase = before.max(moment.0.load(Ordering::SeqCst));
        let took = load.take_slowest();
        if let Some(slowest) = phase.checked_sub(1).and_then(|place| slowest.get_mut(place)) {
            *slowest = (*slowest).max(took);
        }
    }
}

/// Prints the median and the 99th percentile of each phase.
fn report(kind: &str, slowest: &[Duration]) {
    for (phase, name) in PHASES.iter().enumerate() {
        let mut took: Vec<f64> = slowest.iter().skip(phase).step_by(2).map(|took| took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
        println!(
            "{kind}: {} pivots, slowest request {name}: median {:.2} ms, p99 {:.2} ms",
            took.len(),
            at(50),
            at(99)
        );
    }
}

/// A disk under load moves `PIVOTS` times; the file that has it then has what the guest wrote.
fn check(kind: &str, moves: &mut dyn Moves, last: impl FnOnce(usize) -> &'static str) {
    let mut daemon = serve();
    let (count, mut qmp) = (pivots(), daemon.qmp());
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 17);
    load.steps(300);
    let (moment, mut slowest) = (Moment(AtomicUsize::new(0)), vec![Duration::ZERO; 2 * count]);
    thread::scope(|scope| {
        let moving = scope.spawn(|| move_about(moves, &mut qmp, count, &moment));
        go_on(&mut load, &moment, || moving.is_finished(), &mut slowest);
        moving.join().unwrap();
    });
    load.steps(300);
    load.flush();
    let expected = load.expected(DISK);
    drop(load);
    drop(device);
    daemon.terminate();
    let found = std::fs::read(daemon.file(last(count))).unwrap();
    assert!(found == expected, "{kind}: what has the disk at the end is not what the guest wrote");
    report(kind, &slowest);
}

#[test]
fn a_disk_under_load_is_mirrored_there_and_back_without_a_wrong_byte() {
    for more in ["", ", 'copy-mode': 'write-blocking'", ", 'granularity': 4096, 'buf-size': 1048576"] {
        check(&format!("mirror{more}"), &mut Mirrors(more), |count| NODES[count % 2].1);
    }
}

#[test]
fn what_a_disk_under_load_has_in_its_snapshots_is_committed_without_a_wrong_byte() {
    check("active commit", &mut Commits, |_| "disk");
}
