//! The life of rings and sessions: enabled and disabled, reset, left and taken over.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use tidemark_frontend::{Device, DeviceOptions, Request, Status};

use super::daemon::{DISK, Daemon, FILE, a_moment};
use super::guest::Guest;
use super::load::{Load, finish};
use crate::cli::process::TIMEOUT;

const SLOW_WRITES: &str =
    "driver=blkdebug,node-name=n,x-delay-ns.write=300000000,image.driver=file,image.filename=disk";

#[test]
fn a_disabled_ring_is_not_served_and_goes_on_where_it_was_when_enabled() {
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::new(&daemon);
    for round in 0..5 {
        guest.device.enable_queue(0, false).unwrap();
        let data = [guest.alloc(512)];
        guest.queue.submit(&Request::Write { offset: 512 * round, data: &data }).unwrap();
        // Whether or not the device asked for it.
        guest.queue.doorbell().kick().unwrap();
        assert!(!guest.queue.wait(Duration::from_millis(100)).unwrap(), "a disabled ring is served");
        guest.device.enable_queue(0, true).unwrap();
        finish(&mut guest.queue, 0);
        assert_eq!(guest.write(0, &[1; 512]), Status::Ok);
    }
}

#[test]
fn rings_disabled_and_enabled_under_load_lose_nothing() {
    let daemon = Daemon::with_node(FILE, "");
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 4);
    for round in 0..100 {
        load.fill();
        let queue = round % 2;
        device.enable_queue(queue, false).unwrap();
        load.poll();
        device.enable_queue(queue, true).unwrap();
        load.steps(10);
    }
    load.drain();
    assert!(daemon.image() == load.expected(DISK));
}

#[test]
fn a_kick_before_the_ring_is_enabled_is_not_lost() {
    let daemon = Daemon::with_node(FILE, "");
    let mut device = daemon.connect(DeviceOptions::default());
    // The request and its kick are there before the back-end hears of the ring.
    let mut queue = device.create_queue(0).unwrap();
    let data = [device.arena().alloc(4096, 4096).unwrap()];
    queue.submit(&Request::Write { offset: 0, data: &data }).unwrap();
    queue.doorbell().kick().unwrap();
    a_moment();
    assert_eq!(queue.ring().used_idx().unwrap(), 0);
    device.start_queue(0).unwrap();
    finish(&mut queue, 0);
}

#[test]
fn a_second_guest_waits_for_the_first_to_leave() {
    let daemon = Daemon::serve(&[]);
    let mut first = Guest::new(&daemon);
    assert_eq!(first.write(0, &[1; 512]), Status::Ok);
    let path = daemon.file("blk");
    let second = thread::spawn(move || (Device::connect(path, DeviceOptions::default()).unwrap(), Instant::now()));
    a_moment();
    assert!(!second.is_finished(), "two guests on one disk");
    assert_eq!(first.write(512, &[2; 512]), Status::Ok);
    let left = Instant::now();
    drop(first);
    let (device, connected) = second.join().unwrap();
    assert!(connected > left);
    drop(device);
    assert_eq!(Guest::new(&daemon).read(0, 1024), [[1; 512], [2; 512]].concat());
}

#[test]
fn guests_come_and_go_a_hundred_times() {
    let daemon = Daemon::serve(&[]);
    drop(Guest::new(&daemon));
    assert_eq!(Guest::new(&daemon).write(0, &[1; 512]), Status::Ok);
    let before = daemon.open_files();
    for round in 0..100u8 {
        let mut guest = Guest::new(&daemon);
        assert_eq!(guest.write(0, &[round; 512]), Status::Ok);
    }
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.read(0, 512), [99; 512]);
    drop(guest);
    crate::cli::process::wait_until("no more open files than before", || daemon.open_files() <= before);
}

#[test]
fn io_of_a_guest_that_vanished_does_not_reach_into_the_next_session() {
    let daemon = Daemon::with_node(SLOW_WRITES, "");
    let mut guest = Guest::new(&daemon);
    let data = [guest.alloc(4096)];
    guest.device.memory().fill(data[0], 0xdd).unwrap();
    for block in 0..64 {
        guest.queue.enqueue(&Request::Write { offset: block * 4096, data: &data }).unwrap();
    }
    guest.queue.publish().unwrap();
    thread::sleep(Duration::from_millis(100));
    drop(guest);
    let disk = File::open(daemon.file("disk")).unwrap();
    let mut next = Guest::new(&daemon);
    let read = |len: usize| {
        let mut bytes = vec![0; len];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let at_start = read(64 * 4096);
    assert_eq!(next.read(0, 4096), at_start[..4096]);
    thread::sleep(Duration::from_millis(500));
    assert!(read(64 * 4096) == at_start, "a write of the last session landed in this one");
    assert_eq!(next.write(0, &[0x11; 4096]), Status::Ok);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(read(4096), [0x11; 4096]);
}

#[test]
fn guests_that_vanish_under_load_leave_the_disk_usable() {
    let daemon = Daemon::serve(&[]);
    for seed in 0..20 {
        let mut device = daemon.connect(DeviceOptions::default().with_queues(4, 64));
        let mut load = Load::new(&mut device, 4, seed);
        // Nothing is taken back, and so nothing is checked: the model does not know what earlier guests wrote.
        load.fill();
        drop(device);
        drop(load);
    }
    assert_eq!(Guest::new(&daemon).write(0, &[1; 512]), Status::Ok);
    daemon.stop();
}

#[test]
fn a_reset_device_forgets_its_rings_and_serves_new_ones() {
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::with(&daemon, DeviceOptions::default().with_queues(2, 64));
    let other = guest.another_queue(1);
    assert_eq!(guest.write(0, &[1; 512]), Status::Ok);
    guest.device.session().set_write_cache(false).unwrap();
    guest.device.reset().unwrap();
    assert_eq!(daemon.queue_threads(), [""; 0], "rings run after a reset");
    let data = [guest.alloc(512)];
    guest.queue.submit(&Request::Write { offset: 512, data: &data }).unwrap();
    guest.queue.doorbell().kick().unwrap();
    assert!(!guest.queue.wait(Duration::from_millis(100)).unwrap(), "a ring from before the reset is served");
    assert_eq!(other.ring().used_idx().unwrap(), 0);
    guest.queue = guest.another_queue(0);
    assert_eq!(guest.read(0, 512), [1; 512]);
    assert_eq!(guest.device.config().unwrap().writeback, 1, "the write cache is as at the start");
}

#[test]
fn a_reset_waits_for_the_io_in_flight() {
    let daemon = Daemon::with_node(SLOW_WRITES, "");
    let mut guest = Guest::new(&daemon);
    let data = [guest.alloc(4096)];
    guest.device.memory().fill(data[0], 0x77).unwrap();
    guest.queue.submit(&Request::Write { offset: 0, data: &data }).unwrap();
    thread::sleep(Duration::from_millis(100));
    guest.device.reset().unwrap();
    assert_eq!(daemon.image()[..4096], [0x77; 4096]);
    assert!(guest.queue.wait(TIMEOUT).unwrap());
}
