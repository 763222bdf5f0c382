//! The daemon dies of SIGKILL or is ended at random moments, and another takes over: each request completes exactly once, and no byte is lost.

use std::thread;
use std::time::Duration;

use fastrand::Rng;
use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon};
use super::load::Load;

/// Reads are slow and writes are not, so writes overtake them.
const SLOW_READS: &str = "driver=blkdebug,node-name=n,x-delay-ns.read=15000000,image.driver=file,image.filename=disk";

/// How a daemon ends before the next one takes over.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Kill,
    Terminate,
}

fn restarts(mut daemon: Daemon, end: End, queues: u16, rounds: u32, seed: u64) -> Load {
    let mut rng = Rng::with_seed(seed);
    let mut device = daemon.connect(DeviceOptions::default().with_queues(queues, 64));
    let mut load = Load::new(&mut device, queues, seed);
    for _ in 0..rounds {
        load.steps(rng.u64(1..200));
        load.fill();
        thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
        match end {
            End::Kill => daemon.kill(),
            End::Terminate => daemon.terminate(),
        }
        // What was published before, the guest may take meanwhile.
        if rng.bool() {
            load.poll();
            load.fill();
        }
        daemon.restart();
        device.reconnect().unwrap();
    }
    load.steps(100);
    load.drain();
    for queue in 0..queues {
        let entries = device.inflight().unwrap().entries(queue).unwrap();
        assert!(entries.iter().all(|entry| !entry.in_flight), "queue {queue}: {entries:?}");
    }
    assert!(daemon.image() == load.expected(DISK), "the image is not what was written");
    daemon.stop();
    load
}

#[test]
fn twenty_crashes_with_slow_reads_and_fast_writes_complete_every_request_once() {
    let load = restarts(Daemon::with_node(SLOW_READS, ""), End::Kill, 2, 20, 1);
    assert!(load.overtaken() > 100, "only {} of {} out of order", load.overtaken(), load.completed());
}

#[test]
fn twenty_crashes_of_serve_under_load_complete_every_request_once() {
    restarts(Daemon::serve(&[]), End::Kill, 4, 20, 2);
}

#[test]
fn ten_orderly_restarts_under_load_complete_every_request_once() {
    restarts(Daemon::with_node(SLOW_READS, ""), End::Terminate, 2, 10, 4);
}

#[test]
fn a_crash_while_the_last_one_is_being_recovered_from_changes_nothing() {
    let mut daemon = Daemon::with_node(SLOW_READS, "");
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 3);
    for _ in 0..20 {
        load.fill();
        daemon.kill();
        daemon.restart();
        device.reconnect().unwrap();
    }
    load.drain();
    assert!(daemon.image() == load.expected(DISK));
}
