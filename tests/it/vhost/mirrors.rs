//! Mirrors under a guest's load: the disk moves from one file to another and back, and every byte that the guest reads,
//! then and at the end, is what it wrote.
//!
//! `PIVOTS` in the environment says how often each kind of mirror pivots.

use std::env;
use std::thread;

use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon, FILE};
use super::load::{BLOCK, BLOCKS, Load};
use crate::cli::process::wait_until;
use crate::qmp::daemon::Client;

/// The nodes' names and files by number.
const NODES: [(&str, &str); 2] = [("n", "disk"), ("m", "other")];

fn pivots() -> usize {
    env::var("PIVOTS").map_or(4, |count| count.parse().expect("a number"))
}

/// A daemon with a disk, and another file as long.
fn serve() -> Daemon {
    let daemon = Daemon::with_image(FILE, |place| {
        std::fs::File::create(place.file("other")).unwrap().set_len(DISK).unwrap();
    });
    add(&mut daemon.qmp(), 1);
    daemon
}

fn add(qmp: &mut Client, number: usize) {
    let (name, file) = NODES[number];
    qmp.succeed(&format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'file', 'node-name': '{name}', 'filename': '{file}', \
         'discard': 'unmap'}}}}"
    ));
}

fn job(qmp: &mut Client) -> Option<String> {
    let jobs = qmp.succeed("{'execute': 'query-jobs'}");
    let status = jobs.as_array().and_then(|jobs| jobs.first().map(|job| job["status"].clone()));
    status.and_then(|status| status.as_str().map(str::to_owned))
}

fn mirror(qmp: &mut Client, from: usize, to: usize, more: &str) {
    let (device, target) = (NODES[from].0, NODES[to].0);
    qmp.succeed(&format!(
        "{{'execute': 'blockdev-mirror', 'arguments': {{'job-id': 'j', 'device': '{device}', 'target': '{target}', \
         'sync': 'full'{more}}}}}"
    ));
    wait_until("the mirror is ready", || job(qmp).as_deref() == Some("ready"));
}

/// Moves the disk from one node to the other; the first is closed and opened again, as another disk would be.
fn pivot(qmp: &mut Client, from: usize, to: usize, more: &str) {
    mirror(qmp, from, to, more);
    qmp.succeed("{'execute': 'block-job-complete', 'arguments': {'device': 'j'}}");
    wait_until("the mirror has ended", || job(qmp).is_none());
    let exports = qmp.succeed("{'execute': 'query-block-exports'}");
    assert_eq!(exports[0]["node-name"], NODES[to].0);
    let name = NODES[from].0;
    qmp.succeed(&format!("{{'execute': 'blockdev-del', 'arguments': {{'node-name': '{name}'}}}}"));
    add(qmp, from);
}

/// The blocks' values in a disk.
fn values(content: &[u8]) -> Vec<u64> {
    let value = |block: &[u8]| {
        let value = u64::from_le_bytes(block[..8].try_into().unwrap());
        assert!(block == value.to_le_bytes().repeat(BLOCK as usize / 8), "a torn block");
        value
    };
    content.chunks(BLOCK as usize).take(BLOCKS).map(value).collect()
}

#[test]
fn a_disk_under_load_moves_there_and_back_without_a_wrong_byte() {
    for more in ["", ", 'copy-mode': 'write-blocking'", ", 'granularity': 4096, 'buf-size': 1048576"] {
        let mut daemon = serve();
        let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
        let mut load = Load::new(&mut device, 2, 17);
        load.steps(300);
        let (count, mut qmp) = (pivots(), daemon.qmp());
        thread::scope(|scope| {
            let moving =
                scope.spawn(|| (0..count).for_each(|number| pivot(&mut qmp, number % 2, (number + 1) % 2, more)));
            while !moving.is_finished() {
                load.steps(50);
            }
            moving.join().unwrap();
        });
        load.steps(300);
        load.flush();
        let expected = load.expected(DISK);
        drop(load);
        drop(device);
        daemon.terminate();
        let found = std::fs::read(daemon.file(NODES[count % 2].1)).unwrap();
        assert!(found == expected, "{more}: the last target is not the disk");
    }
}

#[test]
fn a_mirror_that_is_cancelled_softly_under_load_leaves_one_moment_of_the_disk() {
    for more in ["", ", 'copy-mode': 'write-blocking'"] {
        let mut daemon = serve();
        let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
        let mut load = Load::new(&mut device, 2, 19);
        // Before anything is under way.
        load.keep_record();
        load.steps(300);
        let mut qmp = daemon.qmp();
        thread::scope(|scope| {
            let copying = scope.spawn(|| {
                mirror(&mut qmp, 0, 1, more);
                qmp.succeed("{'execute': 'block-job-cancel', 'arguments': {'device': 'j'}}");
                wait_until("the mirror has ended", || job(&mut qmp).is_none());
            });
            while !copying.is_finished() {
                load.steps(20);
            }
            copying.join().unwrap();
        });
        load.steps(300);
        let found = values(&std::fs::read(daemon.file("other")).unwrap());
        load.record().moment(&found).unwrap_or_else(|why| panic!("{more}: {why}"));
        load.drain();
        drop(load);
        drop(device);
        daemon.terminate();
    }
}
