//! qcow2 images made by `qemu-img`, served by the real daemon under load, and looked at by `qemu-img` afterwards.
//!
//! What was flushed survives whatever happens to the daemon; what was not may be lost with it, as with the power.

mod guest;
mod kill;
mod sectors;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon};
use super::load::{BLOCK, Load};
use crate::cli::process::{Place, wait_until};

/// Blocks of the raw image at the bottom of chains; it is shorter than the disk.
const BASE_BLOCKS: u64 = 500;
/// The first block that the image in the middle has, and how many.
const MIDDLE: (usize, usize) = (480, 40);
/// The byte that fills these.
const MIDDLE_BYTE: u8 = 0x55;

/// Runs one of QEMU's programs, which has to succeed.
fn qemu(directory: &Path, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{line}: {text}");
    text
}

fn plain(place: &Place, options: &str) {
    qemu(place.path(), &format!("qemu-img create -q -f qcow2 -o {options} disk {DISK}"));
}

/// `disk` over `middle` over `base`, which is raw; [`assume_chain`] says what it shows.
fn chain(place: &Place, options: &str) {
    let base: Vec<u8> = (1..=BASE_BLOCKS).flat_map(|value| value.to_le_bytes().repeat(BLOCK as usize / 8)).collect();
    fs::write(place.file("base"), base).unwrap();
    let at = place.path();
    qemu(at, &format!("qemu-img create -q -f qcow2 -o cluster_size=4k -b base -F raw middle {DISK}"));
    let (offset, len) = (MIDDLE.0 * BLOCK as usize, MIDDLE.1 * BLOCK as usize);
    let write = format!("write -P {MIDDLE_BYTE} {offset} {len}");
    let output =
        Command::new("qemu-io").args(["-f", "qcow2", "-c", &write, "middle"]).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    qemu(at, &format!("qemu-img create -q -f qcow2 -o {options} -b middle -F qcow2 disk {DISK}"));
}

fn assume_chain(load: &mut Load) {
    load.assume(0, 1..=BASE_BLOCKS);
    load.assume(MIDDLE.0, std::iter::repeat_n(u64::from_le_bytes([MIDDLE_BYTE; 8]), MIDDLE.1));
}

/// Ends the daemon in order and compares the image with the model; what `qemu-img check` says of it.
fn compare(daemon: &mut Daemon, load: &Load) -> String {
    daemon.terminate();
    let directory = daemon.file("disk").parent().unwrap().to_owned();
    let checked = Command::new("qemu-img").args(["check", "-f", "qcow2", "disk"]).current_dir(&directory).output();
    let checked = checked.unwrap();
    let text = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    // 0: nothing is wrong; 3: clusters are leaked, nothing else.
    assert!(matches!(checked.status.code(), Some(0 | 3)), "{text}");
    qemu(&directory, "qemu-img convert -f qcow2 -O raw disk content");
    assert!(fs::read(directory.join("content")).unwrap() == load.expected(DISK), "the image is not what was written");
    text
}

/// Random requests of two queues, with a flush now and then.
fn use_it(mut daemon: Daemon, with_chain: bool, seed: u64) -> (String, Daemon) {
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, seed);
    if with_chain {
        assume_chain(&mut load);
    }
    for _ in 0..4 {
        load.steps(500);
        load.flush();
    }
    load.steps(500);
    load.drain();
    (compare(&mut daemon, &load), daemon)
}

#[test]
fn images_of_all_kinds_hold_what_was_written_and_leak_nothing() {
    let kinds = [
        "cluster_size=512",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=64k",
        "cluster_size=2M,refcount_bits=64",
        "compat=0.10,cluster_size=16k",
        "lazy_refcounts=on,preallocation=metadata",
        "data_file=data,data_file_raw=on",
    ];
    for (seed, kind) in (1..).zip(kinds) {
        let (text, _) = use_it(Daemon::serve_image(&[], |place| plain(place, kind)), false, seed);
        assert!(text.contains("No errors were found"), "{kind}: {text}");
    }
}

#[test]
fn images_over_others_show_what_is_below_and_keep_it_as_it_is() {
    for (seed, kind) in (1..).zip(["cluster_size=512", "cluster_size=64k", "cluster_size=1M"]) {
        for cache in [&[][..], &["--buffered"]] {
            let daemon = Daemon::serve_image(cache, |place| chain(place, kind));
            let names = ["base", "middle"].map(|name| daemon.file(name));
            let before = names.each_ref().map(|name| fs::read(name).unwrap());
            let (text, daemon) = use_it(daemon, true, seed);
            assert!(text.contains("No errors were found"), "{kind}: {text}");
            assert!(names.each_ref().map(|name| fs::read(name).unwrap()) == before, "what is below has changed");
            drop(daemon);
        }
    }
}

#[test]
fn what_was_flushed_survives_ten_crashes_under_load_and_nothing_is_corrupt() {
    for (seed, options) in (1..).zip(["cluster_size=4k", "cluster_size=64k"]) {
        let mut daemon = Daemon::serve_image(&[], |place| chain(place, options));
        let mut rng = Rng::with_seed(seed);
        let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
        let mut load = Load::new(&mut device, 2, seed);
        assume_chain(&mut load);
        for _ in 0..10 {
            load.steps(rng.u64(1..300));
            if rng.bool() {
                load.flush();
            }
            load.steps(rng.u64(1..300));
            load.fill();
            thread::sleep(Duration::from_micros(rng.u64(0..5_000)));
            daemon.kill();
            load.poll();
            load.lose();
            daemon.restart();
            device.reconnect().unwrap();
            load.settle();
        }
        compare(&mut daemon, &load);
    }
}

#[test]
fn ten_orderly_restarts_under_load_lose_and_leak_nothing() {
    let mut daemon = Daemon::serve_image(&[], |place| chain(place, "cluster_size=16k"));
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 1);
    assume_chain(&mut load);
    for _ in 0..10 {
        load.steps(200);
        load.fill();
        daemon.terminate();
        daemon.restart();
        device.reconnect().unwrap();
    }
    load.drain();
    let text = compare(&mut daemon, &load);
    assert!(text.contains("No errors were found"), "{text}");
}

#[test]
fn a_deleted_node_has_left_its_image_in_order_while_the_daemon_goes_on() {
    let daemon = Daemon::serve_image(&[], |place| plain(place, "cluster_size=4k"));
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 7);
    load.steps(300);
    load.drain();
    drop(device);
    let mut client = daemon.qmp();
    for request in [
        "{'execute': 'block-export-del', 'arguments': {'id': 'disk0', 'mode': 'hard'}}",
        "{'execute': 'blockdev-del', 'arguments': {'node-name': 'disk0'}}",
    ] {
        let mut replies = Vec::new();
        wait_until("the end of the export", || {
            replies = client.ask(request);
            replies.iter().all(|reply| reply.get("error").is_none())
        });
    }
    let directory = daemon.file("disk").parent().unwrap().to_owned();
    assert!(qemu(&directory, "qemu-img check -f qcow2 disk").contains("No errors were found"));
    qemu(&directory, "qemu-img convert -f qcow2 -O raw disk content");
    assert!(fs::read(directory.join("content")).unwrap() == load.expected(DISK), "the image is not what was written");
}
