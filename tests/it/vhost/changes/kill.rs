//! The daemon is killed at random moments while a guest writes and backups run, and the next ones while they recover what
//! it left: no change is missed, no bitmap becomes inconsistent, and an incremental backup onto the last one is the disk.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidemark_frontend::DeviceOptions;

use super::{
    Bitmap, DISK, Daemon, GRANULARITY, PLAIN, RAW, THREE, backup, bitmaps, check_left_in_order, restart, serve,
};
use crate::vhost::load::{BLOCK, BLOCKS, Load};

/// Kinds of images, and what their bitmaps survive.
const KINDS: [(&str, &str, &str); 4] = [
    ("qcow2, power", PLAIN, ",x-crash-safe=power"),
    ("qcow2, process", PLAIN, ",x-crash-safe=process"),
    ("raw file, power", RAW, ",x-crash-safe=power"),
    ("raw file, process", RAW, ",x-crash-safe=process"),
];
/// Blocks that the guest writes to between two crashes: of 2 MiB.
const WINDOW: usize = 64;
/// When the daemon makes its first checkpoint after it was started.
const CHECKPOINT: Duration = Duration::from_secs(30);
/// Microseconds in which a daemon opens its image, about.
const MOST_RECOVERING_US: u64 = 200_000;
/// One of so many daemons lives until its first checkpoint if there are as many rounds.
const LONG_LIVED: usize = 25;

fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// What the daemons have said after crashes: bytes that a bitmap marks more than when it was stored.
fn told(daemon: &Daemon) -> Vec<u64> {
    let log = daemon.log();
    let whole = log.lines().filter(|line| line.contains("is whole"));
    whole.filter_map(|line| line.split_once("bytes=")?.1.split(' ').next()?.parse().ok()).collect()
}

/// A disk under load, and copies that backups bring up to date.
struct Life {
    daemon: Daemon,
    load: Load,
    rng: Rng,
    /// Blocks that the guest may have written to.
    used: Vec<bool>,
    /// Daemons that were killed soon after they were started.
    early: usize,
}

impl Life {
    /// The guest goes on until some moment.
    fn work(&mut self, at_least: Duration) {
        let first = self.rng.usize(..BLOCKS - WINDOW);
        self.load.within(first..first + WINDOW);
        self.used[first..first + WINDOW].fill(true);
        let started = Instant::now();
        let target = self.load.completed() + self.rng.u64(..400);
        while self.load.completed() < target || started.elapsed() < at_least {
            self.go_on();
            if self.load.completed() >= target {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let more = Duration::from_micros(self.rng.u64(..3000));
        let reached = Instant::now();
        while reached.elapsed() < more {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        self.load.fill();
        self.load.poll();
        thread::yield_now();
    }

    /// An incremental backup onto the copy: then that is the disk.
    fn check(&mut self, bitmap: &str, when: &str) {
        self.load.drain();
        let mode = format!("'sync': 'incremental', 'bitmap': '{bitmap}'");
        backup(&mut self.daemon.qmp(), bitmap, &mode);
        let copy = fs::read(self.daemon.file(bitmap)).unwrap();
        let expected = self.load.expected(DISK);
        let missed = (0..).zip(copy.chunks(512).zip(expected.chunks(512))).find(|(_, (one, other))| one != other);
        assert_eq!(missed.map(|(sector, _): (u64, _)| sector), None, "{when}: a sector that '{bitmap}' has missed");
    }

    /// Kills the daemon, and often one or two more that have just been started.
    fn crash(&mut self) {
        self.daemon.kill();
        for _ in 0..self.rng.u8(..3) {
            self.daemon.restart();
            thread::sleep(Duration::from_micros(self.rng.u64(..MOST_RECOVERING_US)));
            self.daemon.kill();
            self.early += 1;
        }
        restart(&mut self.daemon);
    }

    /// A backup that is under way when the daemon is killed.
    fn begin_backup(&mut self) {
        let mut client = self.daemon.qmp();
        client.succeed(
            "{'execute': 'blockdev-add', 'arguments': {'driver': 'file', 'node-name': 't', 'filename': 'DIR/daily'}}",
        );
        client.succeed(
            "{'execute': 'blockdev-backup', 'arguments': {'job-id': 'j', 'device': 'n', 'target': 't', \
             'sync': 'incremental', 'bitmap': 'daily'}}",
        );
    }
}

/// All go on as before: which they are, of what granularity, which of them record; and what does not record is the same.
fn check_bitmaps(found: &[Bitmap], when: &str) {
    let facts = |bitmap: &Bitmap| (bitmap.granularity, bitmap.recording, bitmap.inconsistent);
    let names: Vec<&str> = found.iter().map(|bitmap| bitmap.name.as_str()).collect();
    assert_eq!(names, ["daily", "still", "weekly"], "{when}");
    let expected = [(GRANULARITY, true, false), (GRANULARITY, false, false), (4096, true, false)];
    assert_eq!(found.iter().map(facts).collect::<Vec<_>>(), expected, "{when}: {found:?}");
    assert_eq!(found[1].count, GRANULARITY, "{when}: what does not record");
}

/// A life with this many crashes. Returns what it came to.
fn live((kind, make, options): (&str, &str, &str), rounds: usize, seed: u64) -> u64 {
    let daemon = serve(options, &format!("{make}\n{THREE}\ntruncate -s 32M daily weekly"));
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let load = Load::new(&mut device, 2, seed).with_stride(DISK / BLOCKS as u64);
    let mut life = Life { daemon, load, rng: Rng::with_seed(seed), used: vec![false; BLOCKS], early: 0 };
    for round in 0..rounds {
        let when = format!("{kind}, crash {round}");
        if life.rng.u8(..3) == 0 {
            life.begin_backup();
        }
        let long = round % LONG_LIVED == LONG_LIVED - 1;
        let early = Duration::from_millis(life.rng.u64(..20));
        life.work(if long { CHECKPOINT - early } else { Duration::ZERO });
        life.crash();
        check_bitmaps(&bitmaps(&mut life.daemon.qmp()), &when);
        device.reconnect().unwrap();
        if round % 4 == 3 {
            life.check("daily", &when);
        }
    }
    life.work(Duration::ZERO);
    life.check("daily", kind);
    let weekly = bitmaps(&mut life.daemon.qmp()).remove(2).count;
    life.check("weekly", kind);
    let used = life.used.iter().filter(|used| **used).count() as u64 * u64::from(BLOCK);
    let told = told(&life.daemon);
    println!(
        "{kind}: killed {rounds} times, and {} times while starting; {} requests ended; {} bitmaps recovered, each with {} KiB more than stored; \
         the one never cleared marks {} KiB, at most {} KiB were written to",
        life.early,
        life.load.completed(),
        told.len(),
        told.iter().sum::<u64>() / 1024 / (told.len() as u64).max(1),
        weekly / 1024,
        used / 1024,
    );
    life.daemon.terminate();
    check_left_in_order(&life.daemon, &["still", "daily", "weekly"]);
    life.load.completed()
}

#[test]
fn no_change_is_missed_when_bitmaps_lose_their_daemon_at_any_moment() {
    let (rounds, mut ended) = (rounds(), 0);
    for (index, kind) in KINDS.into_iter().enumerate() {
        let share = rounds / KINDS.len() + usize::from(index < rounds % KINDS.len());
        ended += live(kind, share, index as u64 + 1);
    }
    assert!(ended > rounds as u64, "the guest has done nothing");
}
