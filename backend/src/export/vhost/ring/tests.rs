//! The ring by hand, from virtio 1.2, section 2.7: a driver written here, and what the device must make of it.

use super::super::inflight::InflightArea;
use super::super::memory::MemoryFault;
use super::driver::{DATA, Driver, EVENT_IDX, INDIRECT, INDIRECT_DESC, MEMORY_LEN, NEXT, RawDesc, USER, WRITE};
use super::*;

mod notifications;

fn block_request(driver: &mut Driver) {
    driver.put_desc(5, (DATA, 16, NEXT, 2));
    driver.put_desc(2, (DATA + 0x1000, 4096, NEXT | WRITE, 7));
    driver.put_desc(7, (DATA + 0x100, 1, WRITE, 0));
    driver.offer(5);
}

#[test]
fn block_request_is_split_into_header_data_and_status() {
    let mut driver = Driver::new(8);
    let mut ring = driver.ring(0);
    let mut chain = Chain::default();
    assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Nothing);
    driver.put(DATA, b"sixteen bytes...");
    block_request(&mut driver);
    assert_eq!(ring.available().unwrap(), 1);
    assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
    assert_eq!((chain.head(), chain.readable_len(), chain.writable_len()), (5, 16, 4097));

    let mut header = [0; 16];
    assert!(chain.cut_header(ring.memory(), &mut header));
    assert_eq!(&header, b"sixteen bytes...");
    assert!(chain.readable().is_empty());
    let status = chain.cut_status().unwrap();
    assert_eq!((driver.guest_addr(&status), status.len), (DATA + 0x100, 1));
    assert_eq!(driver.guest_segments(chain.writable()), [(DATA + 0x1000, 4096)]);
    assert!(ring.memory().write_byte(status, 0xab));
    assert_eq!(driver.get(DATA + 0x100), [0xab]);

    let mut data = chain.take_writable(ring.memory(), Vec::new()).unwrap();
    data.copy_from(4090, b"ending");
    assert_eq!(&driver.get(DATA + 0x1000 + 4090), b"ending");
    assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Nothing);
    assert_eq!((ring.next_avail(), ring.outstanding()), (1, 1));
}

#[test]
fn header_and_status_may_share_descriptors_with_data() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    driver.put_desc(0, (DATA, 10, NEXT, 1));
    driver.put_desc(1, (DATA + 10, 506, NEXT, 2));
    driver.put_desc(2, (DATA + 0x1000, 513, WRITE, 0));
    driver.offer(0);
    let mut chain = Chain::default();
    assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
    let mut too_long = [0; 517];
    assert!(!chain.cut_header(ring.memory(), &mut too_long));
    assert!(chain.cut_header(ring.memory(), &mut [0; 16]));
    assert_eq!(driver.guest_segments(chain.readable()), [(DATA + 16, 500)]);
    assert_eq!(driver.guest_addr(&chain.cut_status().unwrap()), DATA + 0x1000 + 512);
    assert_eq!(driver.guest_segments(chain.writable()), [(DATA + 0x1000, 512)]);
}

#[test]
fn used_entries_become_visible_together() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    let mut chain = Chain::default();
    for head in [3, 1] {
        driver.put_desc(head, (DATA, 1, WRITE, 0));
        driver.offer(head);
        assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
    }
    ring.push_used(1, 77);
    ring.push_used(3, 0xffff_ffff);
    assert_eq!((driver.used_idx(), ring.used_idx(), ring.outstanding()), (0, 0, 2));
    assert!(ring.publish());
    assert_eq!((driver.used_idx(), ring.used_idx(), ring.outstanding()), (2, 2, 0));
    assert_eq!((driver.used_entry(0), driver.used_entry(1)), ((1, 77), (3, 0xffff_ffff)));
    assert!(!ring.publish(), "nothing was pushed");
}

#[test]
fn indices_wrap_at_65536() {
    let mut driver = Driver::new(2);
    driver.set_avail_idx(65535);
    driver.set_used_idx(65535);
    driver.put_desc(0, (DATA, 1, WRITE, 0));
    driver.put_desc(1, (DATA, 2, WRITE, 0));
    let config = RingConfig { next_avail: 65535, ..driver.config(0) };
    let mut ring = Ring::new(driver.memory.clone(), config, None).unwrap();
    let mut chain = Chain::default();
    for head in [1, 0] {
        driver.offer(head);
        assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
        assert_eq!(chain.head(), head);
        ring.push_used(head, 1);
    }
    let _ = ring.publish();
    assert_eq!((driver.used_idx(), ring.next_avail()), (1, 1));
    assert_eq!((driver.used_entry(65535), driver.used_entry(0)), ((1, 1), (0, 1)));
}

#[test]
fn indirect_table_is_followed_after_direct_descriptors_and_when_unaligned() {
    for table in [DATA + 0x4000, DATA + 0x4003] {
        let mut driver = Driver::new(4);
        driver.put_desc(1, (DATA, 16, NEXT, 2));
        // The write flag of a descriptor that refers to a table must be ignored.
        driver.put_desc(2, (table, 48, INDIRECT | WRITE, 0));
        driver.put_desc_at(table, 0, (DATA + 16, 8, NEXT, 2));
        driver.put_desc_at(table, 2, (DATA + 0x1000, 512, NEXT | WRITE, 1));
        driver.put_desc_at(table, 1, (DATA + 0x2000, 1, WRITE, 0));
        driver.offer(1);
        let mut chain = Chain::default();
        assert_eq!(driver.ring(INDIRECT_DESC).pop(&mut chain).unwrap(), Popped::Request);
        assert_eq!(driver.guest_segments(chain.readable()), [(DATA, 16), (DATA + 16, 8)]);
        assert_eq!(driver.guest_segments(chain.writable()), [(DATA + 0x1000, 512), (DATA + 0x2000, 1)]);
    }
}

/// What the device does with a malformed chain: reports it to its status byte, or stops.
fn malformed(descs: &[RawDesc], table: &[RawDesc]) -> (Result<Popped, RingError>, Option<u64>) {
    let mut driver = Driver::new(4);
    for (index, desc) in (0..).zip(descs) {
        driver.put_desc(index, *desc);
    }
    for (index, desc) in (0..).zip(table) {
        driver.put_desc_at(DATA, index, *desc);
    }
    driver.offer(0);
    let mut chain = Chain::default();
    let popped = driver.ring(INDIRECT_DESC).pop(&mut chain);
    assert!(chain.readable().is_empty() && chain.writable().is_empty(), "{descs:?}");
    let status = chain.status().map(|status| driver.guest_addr(&status));
    (popped, status)
}

#[test]
fn malformed_request_with_a_status_byte_is_reported_there() {
    let status = (DATA + 0x8000, 1, WRITE, 0);
    let check = |descs: &[RawDesc], error| {
        let (popped, at) = malformed(descs, &[]);
        assert_eq!((popped.unwrap(), at), (Popped::Malformed(error), Some(DATA + 0x8000)), "{descs:?}");
    };
    check(&[(DATA, 0, NEXT, 1), status], ChainError::ZeroLength);
    check(&[(DATA, 0, NEXT | WRITE, 1), status], ChainError::ZeroLength);
    check(&[(MEMORY_LEN, 16, NEXT, 1), status], ChainError::NotMapped(MEMORY_LEN));
    check(&[(MEMORY_LEN - 8, 16, NEXT, 1), status], ChainError::NotMapped(MEMORY_LEN - 8));
    check(&[(u64::MAX, 16, NEXT | WRITE, 1), status], ChainError::NotMapped(u64::MAX));
    check(&[(DATA, 1, NEXT | WRITE, 1), (DATA, 1, NEXT, 2), status], ChainError::ReadableAfterWritable);
    let long = (DATA, 0x20_0000, NEXT, 1);
    check(&[(0, u32::MAX, NEXT, 1), status], ChainError::NotMapped(0));
    check(&[long, (0, u32::MAX, NEXT, 2), status], ChainError::TooManyBytes);
}

#[test]
fn malformed_request_without_a_status_byte_stops_the_queue() {
    let check = |descs: &[RawDesc], table: &[RawDesc], error| {
        let (popped, status) = malformed(descs, table);
        assert!(
            matches!(popped, Err(RingError::BadChain { head: 0, error: e }) if e == error),
            "{descs:?}: {popped:?}"
        );
        assert_eq!(status, None);
    };
    let indirect = |len| (DATA, len, INDIRECT, 0);
    check(&[(DATA, 1, NEXT | WRITE, 1), (DATA, 1, NEXT | WRITE, 0)], &[], ChainError::Loop);
    check(&[(DATA, 1, NEXT | WRITE, 4)], &[], ChainError::NextOutOfRange(4));
    check(&[(DATA, 0, 0, 0)], &[], ChainError::ZeroLength);
    check(&[(DATA, 1, NEXT, 1), (MEMORY_LEN, 1, WRITE, 0)], &[], ChainError::NotMapped(MEMORY_LEN));
    check(&[indirect(0)], &[], ChainError::IndirectLength(0));
    check(&[indirect(17)], &[], ChainError::IndirectLength(17));
    check(&[(MEMORY_LEN - 16, 32, INDIRECT, 0)], &[], ChainError::IndirectNotMapped(MEMORY_LEN - 16));
    check(&[indirect(16)], &[indirect(16)], ChainError::NestedIndirect);
    check(&[indirect(16)], &[(DATA, 1, NEXT, 1)], ChainError::NextOutOfRange(1));
    check(&[indirect(32)], &[(DATA, 1, NEXT, 1), (DATA, 1, NEXT, 0)], ChainError::Loop);
}

#[test]
fn indirect_table_without_the_feature_stops_the_queue() {
    let mut driver = Driver::new(4);
    driver.put_desc(0, (DATA, 16, INDIRECT, 0));
    driver.offer(0);
    let popped = driver.ring(0).pop(&mut Chain::default());
    assert!(matches!(popped, Err(RingError::BadChain { error: ChainError::IndirectNotNegotiated, .. })));
}

#[test]
fn chain_longer_than_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let limit = u16::try_from(MAX_CHAIN_LEN).unwrap();
    for (count, good) in [(limit, true), (limit + 1, false)] {
        let mut driver = Driver::new(4);
        driver.put_desc(0, (DATA, u32::from(count) * 16, INDIRECT, 0));
        for index in 0..count {
            let flags = if index + 1 < count { NEXT | WRITE } else { WRITE };
            driver.put_desc_at(DATA, index, (0, 1, flags, index + 1));
        }
        driver.offer(0);
        let popped = driver.ring(INDIRECT_DESC).pop(&mut Chain::default());
        assert_eq!(matches!(popped, Ok(Popped::Request)), good, "{popped:?}");
    }
}

#[test]
fn available_ring_that_lies_stops_the_queue() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    driver.set_avail_idx(5);
    assert!(matches!(ring.pop(&mut Chain::default()), Err(RingError::AvailIndexJumped { next: 0, avail: 5 })));
    assert!(matches!(ring.arm_kicks(), Err(RingError::AvailIndexJumped { .. })));

    let mut driver = Driver::new(4);
    driver.offer(4);
    assert!(matches!(driver.ring(0).pop(&mut Chain::default()), Err(RingError::HeadOutOfRange(4))));

    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    driver.put_desc(0, (DATA, 1, WRITE, 0));
    for _ in 0..4 {
        driver.offer(0);
        assert_eq!(ring.pop(&mut Chain::default()).unwrap(), Popped::Request);
    }
    driver.offer(0);
    assert!(matches!(ring.pop(&mut Chain::default()), Err(RingError::TooManyOutstanding)));
}

#[test]
fn ring_outside_memory_or_misaligned_is_refused() {
    let driver = Driver::new(4);
    let good = driver.config(0);
    let start = |config| Ring::new(driver.memory.clone(), config, None).map(|_| ());
    assert!(start(good).is_ok());
    for size in [0, 3, 65535] {
        assert!(matches!(start(RingConfig { size, ..good }), Err(RingError::BadSize(n)) if n == size));
    }
    let end = USER + MEMORY_LEN;
    let not_mapped = [
        RingConfig { desc: end - 48, ..good },
        RingConfig { avail: end - 12, ..good },
        RingConfig { used: end - 36, ..good },
        RingConfig { desc: 0, ..good },
        RingConfig { used: u64::MAX - 3, ..good },
    ];
    for config in not_mapped {
        assert!(matches!(start(config), Err(RingError::NotMapped { .. })), "{config:x?}");
    }
    let misaligned = [
        RingConfig { desc: good.desc + 8, ..good },
        RingConfig { avail: good.avail + 1, ..good },
        RingConfig { used: good.used + 2, ..good },
    ];
    for config in misaligned {
        assert!(matches!(start(config), Err(RingError::Misaligned { .. })), "{config:x?}");
    }
}

#[test]
fn ring_goes_on_in_a_new_memory_table_while_old_segments_stay_mapped() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    block_request_of_one_byte(&mut driver);
    let mut chain = Chain::default();
    assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
    let old = chain.take_writable(ring.memory(), Vec::new()).unwrap();

    driver.memory = Arc::new(driver.map_again());
    ring.set_memory(driver.memory.clone()).unwrap();
    block_request_of_one_byte(&mut driver);
    assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
    assert_eq!(driver.guest_segments(chain.writable()), [(DATA, 1)]);
    let mut byte = [1];
    old.copy_to(0, &mut byte);
    assert_eq!(byte, [0]);

    let empty = Arc::new(MemTable::empty(MemoryFault::new().unwrap()));
    assert!(matches!(ring.set_memory(empty), Err(RingError::NotMapped { .. })));
}

fn block_request_of_one_byte(driver: &mut Driver) {
    driver.put_desc(0, (DATA, 1, WRITE, 0));
    driver.offer(0);
}

#[test]
fn ring_resumes_what_the_last_process_left_in_flight() {
    let mut driver = Driver::new(4);
    let fault = MemoryFault::new().unwrap();
    let (area, _file) = InflightArea::create(1, 4, &fault).unwrap();
    let start = |driver: &Driver, next_avail| {
        let config = RingConfig { next_avail, ..driver.config(EVENT_IDX) };
        Ring::new(driver.memory.clone(), config, Some(area.region(0).unwrap())).unwrap()
    };
    for head in 0..4 {
        driver.put_desc(head, (DATA, 1, WRITE, 0));
    }
    let mut chain = Chain::default();
    let mut first = start(&driver, 0);
    for head in [2, 0, 3] {
        driver.offer(head);
        assert_eq!(first.pop(&mut chain).unwrap(), Popped::Request);
    }
    first.push_used(0, 1);
    assert!(first.publish());
    first.push_used(3, 1);
    drop(first);
    driver.offer(1);
    driver.set_used_event(0);

    // What the front-end says is not looked at.
    let mut second = start(&driver, 77);
    assert_eq!(second.available().unwrap(), 3);
    let heads: Vec<u16> = std::iter::from_fn(|| match second.pop(&mut chain).unwrap() {
        Popped::Request => Some(chain.head()),
        _ => None,
    })
    .collect();
    assert_eq!((heads.as_slice(), second.outstanding()), ([2, 3, 1].as_slice(), 3));
    for head in [1, 2, 3] {
        second.push_used(head, 1);
    }
    assert!(second.publish(), "the driver may wait for a notification that the first process did not come to send");
    assert_eq!((driver.used_idx(), second.next_avail()), (4, 4));
    drop(second);
    assert_eq!(start(&driver, 0).pop(&mut chain).unwrap(), Popped::Nothing);
}
