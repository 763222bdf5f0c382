//! What the device says of itself and how that changes: serial, block size, capacity, write cache.

use std::time::Duration;

use tidemark_frontend::{Request, Status, feature};

use super::daemon::{DISK, Daemon, FILE, a_moment};
use super::guest::{CACHE, Guest, without};
use crate::cli::process::{TIMEOUT, wait_until};

fn serial(daemon: &Daemon) -> String {
    let mut guest = Guest::new(daemon);
    let data = guest.alloc(20);
    assert_eq!(guest.run(&Request::GetId { data }), Status::Ok);
    String::from_utf8(guest.device.memory().to_vec(data).unwrap()).unwrap()
}

#[test]
fn the_serial_is_what_was_asked_for_or_the_exports_id() {
    // Virtio 1.2, 5.2.6: 20 bytes, padded with zeroes, not terminated when all are used.
    for (export, expected) in [
        ("", "e\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        (",x-serial=abc", "abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        (",x-serial=12345678901234567890", "12345678901234567890"),
    ] {
        assert_eq!(serial(&Daemon::with_node(FILE, export)), expected);
    }
    assert_eq!(serial(&Daemon::serve(&["--serial", "mine"])).trim_end_matches('\0'), "mine");
}

#[test]
fn a_resize_reaches_the_guest_and_the_new_end_can_be_used() {
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::new(&daemon);
    let mut qmp = daemon.qmp();
    for size in [DISK * 2, DISK / 2] {
        qmp.succeed(&format!("{{'execute': 'block_resize', 'arguments': {{'node-name': 'n', 'size': {size}}}}}"));
        let channel = guest.device.session().channel().unwrap();
        assert!(channel.wait_config_change(TIMEOUT).unwrap(), "a configuration change of the back-end");
        assert_eq!(guest.device.config().unwrap().capacity_bytes(), size);
        assert_eq!(guest.write(size - 512, &[5; 512]), Status::Ok);
        assert_eq!(guest.write(size, &[5; 512]), Status::IoError);
        assert_eq!(guest.read(size - 512, 512), [5; 512]);
    }
    let quiet = Duration::from_millis(100);
    assert!(!guest.device.session().channel().unwrap().wait_config_change(quiet).unwrap(), "one message per change");
}

#[test]
fn a_front_end_that_does_not_read_its_channel_does_not_hold_the_monitor_up() {
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::new(&daemon);
    let mut qmp = daemon.qmp();
    for round in 0..1000 {
        let size = DISK + (round % 2) * 512;
        qmp.succeed(&format!("{{'execute': 'block_resize', 'arguments': {{'node-name': 'n', 'size': {size}}}}}"));
    }
    assert_eq!(guest.write(0, &[1; 512]), Status::Ok);
    assert_eq!(guest.device.config().unwrap().capacity_bytes(), DISK + 512);
}

#[test]
fn a_resize_while_nobody_is_connected_is_seen_by_the_next_guest() {
    let daemon = Daemon::serve(&[]);
    drop(Guest::new(&daemon));
    let name =
        daemon.qmp().succeed("{'execute': 'query-named-block-nodes'}")[0]["node-name"].as_str().unwrap().to_owned();
    let size = DISK * 2;
    daemon
        .qmp()
        .succeed(&format!("{{'execute': 'block_resize', 'arguments': {{'node-name': '{name}', 'size': {size}}}}}"));
    assert_eq!(Guest::new(&daemon).device.config().unwrap().capacity_bytes(), size);
}

#[test]
fn the_write_cache_is_reported_switched_and_put_back_for_the_next_guest() {
    let daemon = Daemon::with_node(FILE, "");
    for _ in 0..2 {
        let mut guest = Guest::new(&daemon);
        assert_eq!(guest.device.features() & CACHE, CACHE);
        assert_eq!(guest.device.config().unwrap().writeback, 1);
        for on in [false, true, false] {
            guest.device.session().set_write_cache(on).unwrap();
            assert_eq!(guest.device.config().unwrap().writeback, u8::from(on));
            assert_eq!(guest.write(0, &[u8::from(on); 4096]), Status::Ok);
            assert_eq!(guest.read(0, 4096), [u8::from(on); 4096]);
        }
    }
}

#[test]
fn without_a_write_cache_none_is_reported_and_none_can_be_had() {
    let daemon = Daemon::with_node(FILE, ",writethrough=on");
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.device.config().unwrap().writeback, 0);
    assert!(guest.device.session().set_write_cache(true).is_err());
    assert_eq!(guest.device.config().unwrap().writeback, 0);
    assert_eq!(guest.write(0, &[1; 4096]), Status::Ok);
    // Virtio 1.2, 5.2.5.2: a driver that accepts neither must be able to take completed writes for stable.
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::with(&daemon, without(CACHE));
    assert_eq!(guest.device.config().unwrap().writeback, 0);
    assert_eq!(guest.write(0, &[1; 4096]), Status::Ok);
}

#[test]
fn large_blocks_are_reported_and_insisted_on() {
    let daemon = Daemon::with_node(FILE, ",logical-block-size=4096");
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.device.config().unwrap().blk_size, 4096);
    assert_eq!(guest.write(4096, &[3; 8192]), Status::Ok);
    assert_eq!(guest.read(8192, 4096), [3; 4096]);
    for (offset, len) in [(512, 4096), (4096, 512), (4096, 4608), (0, 100)] {
        assert_eq!(guest.write(offset, &vec![4; len]), Status::IoError, "{len} bytes at {offset}");
    }
    assert_eq!(guest.run(&Request::Discard { offset: 512, len: 4096 }), Status::IoError);
    assert_eq!(guest.run(&Request::WriteZeroes { offset: 4096, len: 512, unmap: false }), Status::IoError);
    assert_eq!(guest.run(&Request::WriteZeroes { offset: 4096, len: 4096, unmap: false }), Status::Ok);
    assert_eq!(guest.read(0, 12288), [[0; 4096], [0; 4096], [3; 4096]].concat());
}

#[test]
fn serve_offers_64_queues_and_has_threads_for_those_in_use_only() {
    let daemon = Daemon::serve(&[]);
    let mut guest = Guest::with(&daemon, tidemark_frontend::DeviceOptions::default().with_queues(64, 64));
    assert_eq!(guest.device.session().queue_count().unwrap(), 64);
    assert_eq!(guest.device.config().unwrap().num_queues, 64);
    assert_eq!(daemon.queue_threads(), ["queue-0"]);
    let mut queues = [5, 63].map(|index| guest.another_queue(index));
    assert_eq!(daemon.queue_threads(), ["queue-0", "queue-5", "queue-63"]);
    for queue in &mut queues {
        guest.check(queue, 9);
    }
    guest.device.stop_queue(5).unwrap();
    wait_until("the end of a queue's thread", || daemon.queue_threads() == ["queue-0", "queue-63"]);
    drop((guest, queues));
    wait_until("the end of all queues' threads", || daemon.queue_threads().is_empty());
}

#[test]
fn all_64_queues_work_at_once() {
    let daemon = Daemon::serve(&[]);
    let mut guest = Guest::with(&daemon, tidemark_frontend::DeviceOptions::default().with_queues(64, 16));
    let mut queues: Vec<_> = (1..64).map(|index| guest.another_queue(index)).collect();
    assert_eq!(daemon.queue_threads().len(), 64);
    for queue in &mut queues {
        let seed = u8::try_from(queue.index()).unwrap();
        guest.check(queue, seed);
    }
    for index in 1..64u8 {
        assert_eq!(guest.read(u64::from(index) << 12, 4096), [index; 4096]);
    }
}

#[test]
fn a_queue_that_was_not_offered_is_refused_and_the_others_live_on() {
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::new(&daemon);
    let ninth = guest.device.create_queue(9).unwrap();
    assert!(guest.device.start_queue(9).is_err());
    a_moment();
    assert_eq!(ninth.ring().used_idx().unwrap(), 0);
    assert_eq!(guest.write(0, &[1; 512]), Status::Ok);
    assert_eq!(guest.device.features() & feature::MQ, feature::MQ);
}
