//! Rings and descriptors that break the rules of virtio: an error status where there is a place for one, else the queue
//! stops; other queues, the session and the daemon live on.

use std::time::Duration;

use tidemark_frontend::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, DeviceOptions, Queue, Ring, Status, feature,
};

use super::daemon::{Daemon, FILE, a_moment};
use super::guest::{Guest, read_header};
use crate::cli::process::{TIMEOUT, wait_until};

const UNWRITTEN: u8 = 0xff;
const IO_ERROR: u8 = 1;
const QUEUE_SIZE: u16 = 64;

/// Where the parts of a request lie in guest memory.
struct Parts {
    header: u64,
    data: u64,
    status: u64,
    table: u64,
}

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { addr, len, flags, next }
}

/// A guest that writes its descriptors by hand in queue 0, and has a queue 1 that works.
struct Hand {
    guest: Guest,
    other: Queue,
    parts: Parts,
}

impl Hand {
    fn new(daemon: &Daemon, options: DeviceOptions) -> Self {
        let mut guest = Guest::with(daemon, options.with_queues(2, QUEUE_SIZE));
        let other = guest.another_queue(1);
        let page = guest.alloc(65536);
        let at = |offset| page.part(offset, 1).unwrap().addr;
        let parts = Parts { header: at(0), status: at(1024), data: at(4096), table: at(32768) };
        guest.device.memory().write(parts.header, &read_header()).unwrap();
        Self { guest, other, parts }
    }

    fn ring(&self) -> &Ring {
        self.guest.queue.ring()
    }

    fn status(&self) -> u8 {
        self.guest.device.memory().byte(self.parts.status).unwrap()
    }

    /// Offers a chain whose descriptors start at 0, and those of an indirect table.
    fn offer(&self, descriptors: &[Descriptor], table: &[Descriptor]) {
        self.guest.device.memory().write(self.parts.status, &[UNWRITTEN]).unwrap();
        for (descriptor, index) in descriptors.iter().zip(0..) {
            self.ring().write_descriptor(index, *descriptor).unwrap();
        }
        for (descriptor, index) in table.iter().zip(0..) {
            self.ring().write_descriptor_at(self.parts.table, index, *descriptor).unwrap();
        }
        self.ring().offer(0).unwrap();
        self.kick();
    }

    fn kick(&self) {
        self.guest.queue.doorbell().kick().unwrap();
    }

    /// A good read of a sector: completes with success.
    fn good(&self) {
        let used = self.ring().used_idx().unwrap();
        let Parts { header, data, status, .. } = self.parts;
        let (next, write) = (DESC_F_NEXT, DESC_F_WRITE);
        self.offer(&[desc(header, 16, next, 1), desc(data, 512, next | write, 2), desc(status, 1, write, 0)], &[]);
        self.wait_used(used.wrapping_add(1), "a good request");
        assert_eq!(self.status(), 0);
        assert_eq!(self.ring().used_element(used).unwrap().len, 513);
    }

    fn wait_used(&self, index: u16, name: &str) {
        wait_until(name, || self.ring().used_idx().unwrap() == index);
    }

    /// The queue reported an error, once, and does not look at its ring any more; the other one works.
    fn has_stopped(&mut self, daemon: &Daemon, name: &str, stops: usize) {
        assert!(self.guest.queue.doorbell().wait_error(TIMEOUT).unwrap(), "{name}: no error is signalled");
        daemon.wait_logged("virtqueue stopped", stops);
        let used = self.ring().used_idx().unwrap();
        self.kick();
        self.guest.check(&mut self.other, 3);
        assert_eq!(self.ring().used_idx().unwrap(), used, "{name}");
        assert!(!self.guest.queue.doorbell().wait_error(Duration::ZERO).unwrap(), "{name}: signalled twice");
        assert!(!self.guest.device.is_closed(), "{name}");
    }
}

type Chain = (&'static str, Vec<Descriptor>, Vec<Descriptor>);

const NEXT: u16 = DESC_F_NEXT;
const WRITE: u16 = DESC_F_WRITE;
const INDIRECT: u16 = DESC_F_INDIRECT;
const NOWHERE: u64 = 1 << 45;

/// Chains with a good status descriptor at their end.
fn answerable(parts: &Parts) -> Vec<Chain> {
    let Parts { header, status, table, .. } = *parts;
    let head = |next| desc(header, 16, NEXT, next);
    let tail = desc(status, 1, WRITE, 0);
    let data = |addr, len| vec![head(1), desc(addr, len, NEXT | WRITE, 2), tail];
    let inside = |chain: Vec<Descriptor>| (vec![desc(table, 16 * 3, INDIRECT, 0)], chain);
    let (whole, wild) = inside(data(NOWHERE, 512));
    vec![
        ("data of length zero", data(parts.data, 0), vec![]),
        ("data outside of memory", data(NOWHERE, 512), vec![]),
        ("data that starts inside and ends outside", data((64 << 20) - 256, 512), vec![]),
        ("data that wraps around the address space", data(u64::MAX - 255, 512), vec![]),
        ("data of nearly 4 GiB", data(parts.data, u32::MAX), vec![]),
        (
            "lengths whose sum overflows 32 bits",
            vec![head(1), desc(parts.data, u32::MAX, NEXT | WRITE, 2), desc(parts.data, 512, NEXT | WRITE, 3), tail],
            vec![],
        ),
        ("data in an indirect table outside of memory", whole, wild),
        ("header for the device to write", vec![desc(header, 16, NEXT | WRITE, 1), tail], vec![]),
        ("header outside of memory", vec![desc(NOWHERE, 16, NEXT, 1), tail], vec![]),
        ("header of 15 bytes", vec![desc(header, 15, NEXT, 1), tail], vec![]),
        ("no header", vec![tail], vec![]),
        ("no data", vec![head(1), tail], vec![]),
        ("data of the wrong direction", vec![head(1), desc(parts.data, 512, NEXT, 2), tail], vec![]),
        (
            "data for the device to read after data for it to write",
            vec![head(1), desc(parts.data, 512, NEXT | WRITE, 2), desc(parts.data, 512, NEXT, 3), tail],
            vec![],
        ),
    ]
}

#[test]
fn a_malformed_request_with_a_place_for_its_status_gets_an_error_and_the_queue_goes_on() {
    let daemon = Daemon::with_node(FILE, "");
    let mut hand = Hand::new(&daemon, DeviceOptions::default());
    hand.good();
    for (name, descriptors, table) in answerable(&hand.parts) {
        let used = hand.ring().used_idx().unwrap();
        hand.offer(&descriptors, &table);
        hand.wait_used(used.wrapping_add(1), name);
        assert_eq!(hand.status(), IO_ERROR, "{name}");
        // Virtio 1.2, 2.7.8.1: at least as many bytes as counted were written, in this case the status.
        let element = hand.ring().used_element(used).unwrap();
        assert_eq!((element.head, element.len), (0, 1), "{name}");
        hand.good();
    }
    hand.guest.check(&mut hand.other, 4);
    assert!(!hand.guest.queue.doorbell().wait_error(Duration::ZERO).unwrap());
    assert!(!daemon.stop().contains("ERROR"), "what is answered is not logged as an error");
}

/// Chains without a place for a status.
fn hopeless(parts: &Parts) -> Vec<Chain> {
    let Parts { header, data, status, table } = *parts;
    let head = |next| desc(header, 16, NEXT, next);
    let tail = desc(status, 1, WRITE, 0);
    let indirect = |len| vec![desc(table, len, INDIRECT, 0)];
    vec![
        ("status for the device to read", vec![head(1), desc(status, 1, 0, 0)], vec![]),
        ("header only", vec![desc(header, 16, 0, 0)], vec![]),
        ("status outside of memory", vec![head(1), desc(NOWHERE, 1, WRITE, 0)], vec![]),
        ("status of length zero", vec![head(1), desc(status, 0, WRITE, 0)], vec![]),
        ("descriptor that is its own next", vec![head(0)], vec![]),
        ("loop of two", vec![head(1), desc(data, 512, NEXT | WRITE, 0)], vec![]),
        ("next beyond the table", vec![head(QUEUE_SIZE), tail], vec![]),
        ("next far beyond the table", vec![head(u16::MAX), tail], vec![]),
        ("indirect table of length zero", indirect(0), vec![head(1), tail]),
        ("indirect table of a part of a descriptor", indirect(15), vec![head(1), tail]),
        ("indirect table of two descriptors and a byte", indirect(33), vec![head(1), tail]),
        ("indirect table outside of memory", vec![desc(NOWHERE, 32, INDIRECT, 0)], vec![]),
        ("indirect table of nearly 4 GiB", indirect(u32::MAX - 15), vec![head(1), tail]),
        ("indirect table in an indirect table", indirect(32), indirect(32)),
        ("indirect table whose last descriptor goes on", indirect(32), vec![head(1), desc(status, 1, NEXT | WRITE, 2)]),
        ("loop in an indirect table", indirect(32), vec![head(1), desc(data, 512, NEXT | WRITE, 0)]),
    ]
}

#[test]
fn a_request_without_a_place_for_its_status_stops_its_queue_and_no_other() {
    let daemon = Daemon::with_node(FILE, "");
    let count = hopeless(&Hand::new(&daemon, DeviceOptions::default()).parts).len();
    for case in 0..count {
        let mut hand = Hand::new(&daemon, DeviceOptions::default());
        let (name, descriptors, table) = hopeless(&hand.parts).swap_remove(case);
        hand.good();
        hand.offer(&descriptors, &table);
        hand.has_stopped(&daemon, name, case + 1);
        assert_eq!(hand.status(), UNWRITTEN, "{name}");
        assert_eq!(hand.ring().used_idx().unwrap(), 1, "{name}");
    }
    daemon.stop();
}

#[test]
fn an_indirect_table_that_was_not_negotiated_stops_the_queue() {
    let daemon = Daemon::with_node(FILE, "");
    let options = DeviceOptions::default().with_feature(feature::INDIRECT_DESC, false);
    let mut hand = Hand::new(&daemon, options);
    let Parts { header, status, table, .. } = hand.parts;
    let chain = [desc(header, 16, NEXT, 1), desc(status, 1, WRITE, 0)];
    hand.offer(&[desc(table, 32, INDIRECT, 0)], &chain);
    hand.has_stopped(&daemon, "indirect table", 1);
}

#[test]
fn an_avail_ring_that_makes_no_sense_stops_its_queue() {
    let daemon = Daemon::with_node(FILE, "");
    for (stops, (jump, head)) in
        (1..).zip([(1, QUEUE_SIZE), (1, u16::MAX), (QUEUE_SIZE + 1, 0), (u16::MAX, 0), (1 << 15, 0)])
    {
        let mut hand = Hand::new(&daemon, DeviceOptions::default());
        hand.good();
        let index = hand.ring().avail_idx().unwrap();
        hand.ring().write_avail(index, head).unwrap();
        hand.ring().set_avail_idx(index.wrapping_add(jump)).unwrap();
        hand.kick();
        hand.has_stopped(&daemon, &format!("index + {jump}, head {head}"), stops);
    }
}

#[test]
fn requests_before_a_malformed_one_complete_and_those_after_it_are_not_looked_at() {
    let daemon = Daemon::with_node(
        "driver=blkdebug,node-name=n,x-delay-ns.read=100000000,image.driver=file,image.filename=disk",
        "",
    );
    let mut hand = Hand::new(&daemon, DeviceOptions::default());
    let Parts { header, data, status, .. } = hand.parts;
    let ring = hand.ring();
    let chain = [desc(header, 16, NEXT, 1), desc(data, 512, NEXT | WRITE, 2), desc(status, 1, WRITE, 0)];
    (0..).zip(chain).for_each(|(index, descriptor)| ring.write_descriptor(index, descriptor).unwrap());
    ring.write_descriptor(5, desc(header, 16, NEXT, 5)).unwrap();
    for head in [0, 5, 0] {
        ring.offer(head).unwrap();
    }
    hand.kick();
    hand.wait_used(1, "the good request");
    a_moment();
    hand.has_stopped(&daemon, "loop between good requests", 1);
    assert_eq!(hand.ring().used_idx().unwrap(), 1);
    // The stopped queue can be taken back and started anew.
    assert_eq!(hand.guest.device.stop_queue(0).unwrap(), 2);
}

#[test]
fn a_stopped_queue_works_again_after_a_reset() {
    let daemon = Daemon::with_node(FILE, "");
    let mut hand = Hand::new(&daemon, DeviceOptions::default());
    hand.offer(&[desc(hand.parts.header, 16, NEXT, 0)], &[]);
    hand.has_stopped(&daemon, "a loop", 1);
    hand.guest.device.reset().unwrap();
    hand.guest.queue = hand.guest.another_queue(0);
    assert_eq!(hand.guest.write(0, &[1; 512]), Status::Ok);
}
