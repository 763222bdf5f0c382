//! Property tests against crate `virtio-queue`: the same memory, the same chains, the same decisions.
//!
//! The oracle knows no malformed chains: it ends the iteration where it stops understanding. So well-formed requests
//! must come out of both alike, and of one that we refuse the reason is checked against what the oracle yields.

use std::num::Wrapping;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, FileOffset, GuestAddress, GuestMemoryMmap};

use super::driver::{DATA, Driver, EVENT_IDX, INDIRECT, INDIRECT_DESC, MEMORY_LEN, NEXT, RawDesc, WRITE};
use super::*;

const SIZE: u16 = 16;
const TABLE: u64 = DATA;
const TABLE_LEN: u16 = 20;

/// Guest address, length, and whether it is writable.
type Buffer = (u64, usize, bool);

/// The oracle on the driver's memory.
struct Oracle {
    memory: GuestMemoryMmap,
    queue: Queue,
}

impl Oracle {
    fn new(driver: &Driver, event_idx: bool) -> Oracle {
        let file = FileOffset::new(driver.clone_file(), 0);
        let len = usize::try_from(MEMORY_LEN).unwrap();
        let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), len, Some(file))]).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        let [desc, avail, used] = driver.guest_parts();
        queue.try_set_desc_table_address(GuestAddress(desc)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(avail)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(used)).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Oracle { memory, queue }
    }

    /// Head and descriptors of the next chain.
    fn pop(&mut self) -> Option<(u16, Vec<Buffer>)> {
        let chain = self.queue.iter(&self.memory).ok()?.next()?;
        let head = chain.head_index();
        let flat = chain.map(|d| (d.addr().raw_value(), d.len() as usize, d.is_write_only())).collect();
        Some((head, flat))
    }
}

fn buffer() -> impl Strategy<Value = (u64, u32, bool)> {
    (DATA + 0x1000..DATA + 0x2000, 1u32..0x4000, any::<bool>())
}

/// A well-formed request: buffers, of which the first `direct` have descriptors of the ring and the rest, if any, are
/// in an indirect table.
fn request() -> impl Strategy<Value = (Vec<(u64, u32, bool)>, usize)> {
    (prop::collection::vec(buffer(), 1..usize::from(SIZE)), any::<prop::sample::Index>()).prop_map(
        |(mut buffers, at)| {
            buffers.sort_by_key(|(_, _, writable)| *writable);
            let direct = at.index(buffers.len() + 1);
            (buffers, direct)
        },
    )
}

/// Puts a request into the tables at random places; returns its head.
fn place(driver: &Driver, buffers: &[(u64, u32, bool)], direct: usize, order: &[u16], table_order: &[u16]) -> u16 {
    let flags = |index: usize| {
        let more = index + 1 < buffers.len();
        (if buffers[index].2 { WRITE } else { 0 }) | (if more { NEXT } else { 0 })
    };
    for index in 0..direct {
        let (addr, len, _) = buffers[index];
        driver.put_desc(order[index], (addr, len, flags(index), order[index + 1]));
    }
    if direct < buffers.len() {
        // The first entry of a table is its start.
        let slot = |index: usize| if index == direct { 0 } else { table_order[index] };
        for index in direct..buffers.len() {
            let (addr, len, _) = buffers[index];
            let next = if index + 1 < buffers.len() { slot(index + 1) } else { 0 };
            driver.put_desc_at(TABLE, slot(index), (addr, len, flags(index), next));
        }
        driver.put_desc(order[direct], (TABLE, u32::from(TABLE_LEN) * 16, INDIRECT, 0));
    }
    order[0]
}

fn shuffled(range: std::ops::Range<u16>) -> impl Strategy<Value = Vec<u16>> {
    Just(range.collect::<Vec<_>>()).prop_shuffle()
}

fn ours(driver: &Driver, chain: &Chain) -> Vec<Buffer> {
    let list =
        |segments, writable| driver.guest_segments(segments).into_iter().map(move |(addr, len)| (addr, len, writable));
    list(chain.readable(), false).chain(list(chain.writable(), true)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn well_formed_requests_come_out_as_from_virtio_queue(
        requests in prop::collection::vec((request(), shuffled(0..SIZE), shuffled(1..TABLE_LEN)), 1..40),
    ) {
        let mut driver = Driver::new(SIZE);
        let (mut ring, mut oracle) = (driver.ring(INDIRECT_DESC), Oracle::new(&driver, false));
        let mut chain = Chain::default();
        for ((buffers, direct), mut order, table_order) in requests {
            order.push(0);
            let head = place(&driver, &buffers, direct, &order, &table_order);
            driver.offer(head);
            prop_assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
            prop_assert_eq!(oracle.pop().unwrap(), (chain.head(), ours(&driver, &chain)));
            prop_assert_eq!(ring.next_avail(), oracle.queue.next_avail());
            ring.push_used(head, 0);
            let _ = ring.publish();
        }
        prop_assert!(oracle.pop().is_none());
        prop_assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Nothing);
    }

    #[test]
    fn whatever_is_in_the_tables_we_accept_only_what_virtio_queue_understands_alike(
        descs in prop::collection::vec(raw_desc(SIZE + 1), usize::from(SIZE)),
        table in prop::collection::vec(raw_desc(TABLE_LEN + 1), usize::from(TABLE_LEN)),
        head in 0..SIZE + 1,
    ) {
        let mut driver = Driver::new(SIZE);
        let (mut ring, mut oracle) = (driver.ring(INDIRECT_DESC), Oracle::new(&driver, false));
        for (index, desc) in (0..).zip(&descs) {
            driver.put_desc(index, *desc);
        }
        for (index, desc) in (0..).zip(&table) {
            driver.put_desc_at(TABLE, index, *desc);
        }
        driver.offer(head);
        let mut chain = Chain::default();
        let popped = ring.pop(&mut chain);
        let (oracle_head, theirs) = oracle.pop().unwrap();
        prop_assert_eq!(oracle_head, head);
        let is_bad = |(addr, len, _): &Buffer| *len == 0 || addr + *len as u64 > MEMORY_LEN;
        match popped {
            Ok(Popped::Request) => {
                prop_assert!(!theirs.iter().any(is_bad));
                prop_assert!(theirs.is_sorted_by_key(|(_, _, writable)| *writable));
                prop_assert_eq!(ours(&driver, &chain), theirs);
            }
            Ok(Popped::Malformed(_)) => {
                prop_assert!(theirs.iter().any(is_bad) || !theirs.is_sorted_by_key(|(_, _, writable)| *writable));
                let (addr, len, _) = theirs.iter().rev().find(|(_, _, writable)| *writable).unwrap();
                let status = driver.guest_addr(&chain.status().unwrap());
                prop_assert_eq!(status, addr + *len as u64 - 1);
            }
            Ok(Popped::Nothing) => prop_assert!(false, "a request was available"),
            Err(RingError::HeadOutOfRange(at)) => prop_assert_eq!(at, SIZE),
            Err(RingError::BadChain { error, .. }) => {
                let writable = theirs.iter().rev().find(|(_, _, writable)| *writable);
                let is_cut_off = !matches!(
                    error,
                    ChainError::ZeroLength | ChainError::NotMapped(_) | ChainError::ReadableAfterWritable
                );
                prop_assert!(is_cut_off || writable.is_none_or(is_bad), "{error}: {theirs:?}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn notification_decisions_and_used_rings_are_those_of_virtio_queue(
        start in any::<u16>(),
        event_idx in any::<bool>(),
        batches in prop::collection::vec((1..=SIZE, -20i32..20, any::<u32>()), 1..60),
    ) {
        let features = if event_idx { EVENT_IDX } else { 0 };
        let (mut a, mut b) = (Driver::new(SIZE), Driver::new(SIZE));
        for driver in [&mut a, &mut b] {
            driver.set_avail_idx(start);
            driver.set_used_idx(start);
            for head in 0..SIZE {
                driver.put_desc(head, (DATA, 1, WRITE, 0));
            }
        }
        let config = RingConfig { next_avail: start, ..a.config(features) };
        let mut ring = Ring::new(a.memory.clone(), config, None).unwrap();
        let mut oracle = Oracle::new(&b, event_idx);
        oracle.queue.set_next_avail(start);
        oracle.queue.set_next_used(start);
        let mut chain = Chain::default();
        for (nth, (count, distance, written)) in batches.into_iter().enumerate() {
            let event = Wrapping(ring.used_idx()) + Wrapping(u16::try_from(distance & 0xffff).unwrap());
            a.set_used_event(event.0);
            b.set_used_event(event.0);
            for head in 0..count {
                a.offer(head);
                b.offer(head);
                prop_assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
                prop_assert_eq!(oracle.pop().unwrap().0, chain.head());
                ring.push_used(head, written);
                oracle.queue.add_used(&oracle.memory, head, written).unwrap();
            }
            let theirs = oracle.queue.needs_notification(&oracle.memory).unwrap();
            // Our first is unconditional: the driver may wait since before our time.
            prop_assert_eq!(ring.publish(), theirs || nth == 0);
            prop_assert_eq!(ring.used_idx(), oracle.queue.next_used());
            prop_assert_eq!(ring.arm_kicks().unwrap(), oracle.queue.enable_notification(&oracle.memory).unwrap());
            prop_assert_eq!(a.used_area(), b.used_area());
            ring.suppress_kicks();
            oracle.queue.disable_notification(&oracle.memory).unwrap();
            // With EVENT_IDX the oracle leaves its last wish where it is, and we take ours back: all but the last field.
            let [ours, theirs] = [&a, &b].map(|driver| driver.used_area());
            let compared = ours.len() - if event_idx { 2 } else { 0 };
            prop_assert_eq!(&ours[..compared], &theirs[..compared]);
        }
    }
}

/// Any descriptor, with `indices` possible values of its next; often something sensible.
fn raw_desc(indices: u16) -> impl Strategy<Value = RawDesc> {
    let addr = prop_oneof![
        8 => (DATA + 0x1000)..(DATA + 0x2000),
        2 => Just(TABLE),
        1 => (MEMORY_LEN - 0x1000)..(MEMORY_LEN + 0x1000),
    ];
    let len = prop_oneof![6 => 1u32..0x2000, 1 => Just(u32::from(TABLE_LEN) * 16), 1 => Just(0)];
    let flags = prop_oneof![4 => 0..INDIRECT, 1 => 0..INDIRECT * 2];
    (addr, len, flags, 0..indices)
}
