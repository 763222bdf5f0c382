//! Images whose daemon is killed at random moments while a guest of two queues keeps it busy: `qemu-img check` finds no
//! corruption in what is left, QEMU finds there what was flushed, and the guest goes on with the daemon that comes next
//! and finds all that had ended.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::{Signal, kill_process};
use tidemark_frontend::{Device, DeviceOptions};

use super::super::daemon::Daemon;
use super::guest::Guest;
use super::sectors::{SECTOR, Since};
use super::{chain, qemu};
use crate::cli::process::wait_until;

/// What a guest finds on its disk when its daemon was killed and another one is there: a journal in memory that outlives
/// the daemon keeps what was not flushed.
const SURVIVES: Since = Since::Ended;

/// Sectors of the disk that are used.
const SECTORS: usize = 8192;

/// Kinds of images, and sectors of a cluster.
const KINDS: [(&str, usize); 4] = [
    ("cluster_size=4k", 8),
    ("cluster_size=64k", 128),
    ("cluster_size=512,refcount_bits=64", 1),
    ("cluster_size=16k,refcount_bits=2", 32),
];

fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// An image over a chain, with a snapshot, so that everything it begins with is shared.
fn daemon(kind: &str) -> Daemon {
    Daemon::serve_image(&[], |place| {
        chain(place, kind);
        let args = ["-t", "unsafe", "-f", "qcow2", "-c", "write -q -P 7 1M 1M", "-c", "write -q -z 2M 256k", "disk"];
        let written = Command::new("qemu-io").args(args).current_dir(place.path()).output().unwrap();
        assert!(written.status.success(), "{written:?}");
        qemu(place.path(), "qemu-img snapshot -c before disk");
    })
}

/// What a guest has on the disk in `name`, or had when the snapshot was made.
fn content(daemon: &Daemon, snapshot: &str) -> Vec<u8> {
    let directory = daemon.file("disk").parent().unwrap().to_owned();
    qemu(&directory, &format!("qemu-img convert -U -t unsafe -f qcow2 {snapshot}-O raw disk content"));
    let mut content = fs::read(directory.join("content")).unwrap();
    content.truncate(SECTORS * SECTOR);
    content
}

/// Leaks are allowed, nothing else. The kernel may hold the file for a moment: what the daemon had sent there goes on.
fn assert_sound(daemon: &Daemon) {
    let directory = daemon.file("disk").parent().unwrap().to_owned();
    let (mut code, mut text) = (None, String::new());
    wait_until("the image", || {
        let checked = Command::new("qemu-img").args(["check", "-f", "qcow2", "disk"]).current_dir(&directory).output();
        let checked = checked.unwrap();
        text = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        code = checked.status.code();
        !text.contains("Failed to get")
    });
    assert!(matches!(code, Some(0 | 3)), "{text}");
}

/// Kills the daemon some time from now, and says so; the guest is busy until then.
fn kill_under_load(daemon: &mut Daemon, guest: &mut Guest, after: Duration) {
    let (over, pid) = (AtomicBool::new(false), daemon.pid());
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(after);
            kill_process(pid, Signal::KILL).unwrap();
            over.store(true, Ordering::Release);
        });
        guest.work_until(&over);
    });
    daemon.kill();
}

/// One image, killed this often. Returns how many requests have ended.
fn live(kind: &str, unit: usize, rounds: usize, seed: u64) -> u64 {
    let mut daemon = daemon(kind);
    let mut rng = Rng::with_seed(seed);
    let mut device: Device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let before = content(&daemon, "");
    let mut guest = Guest::new(&mut device, &before, unit, seed);
    for round in 0..rounds {
        kill_under_load(&mut daemon, &mut guest, Duration::from_micros(rng.u64(0..60_000)));
        guest.lose(SURVIVES);
        assert_sound(&daemon);
        let wrong = guest.sectors.judge(0, &content(&daemon, ""), Since::Flushed);
        assert_eq!(wrong, None, "round {round}: the image that the daemon has left");
        daemon.restart();
        device.reconnect().unwrap();
        guest.settle();
    }
    daemon.terminate();
    assert_sound(&daemon);
    assert_eq!(guest.sectors.judge(0, &content(&daemon, ""), Since::Ended), None, "after an orderly end");
    assert!(content(&daemon, "-l snapshot.name=before ") == before, "the snapshot is not what it was");
    guest.ended
}

#[test]
fn nothing_that_has_ended_is_lost_and_nothing_corrupt_when_daemons_are_killed_at_any_moment() {
    let (rounds, mut ended) = (rounds(), 0);
    for (index, (kind, unit)) in KINDS.into_iter().enumerate() {
        let share = rounds / KINDS.len() + usize::from(index < rounds % KINDS.len());
        let requests = live(kind, unit, share, index as u64 + 1);
        println!("{kind}: killed {share} times, {requests} requests ended");
        ended += requests;
    }
    assert!(ended > rounds as u64, "the guest has done nothing");
}
