//! Who tells whom, and when: calls to the driver, kicks from it.

use super::*;

#[test]
fn flags_say_whether_to_notify_without_event_idx() {
    let mut driver = Driver::new(8);
    let mut ring = driver.ring(0);
    driver.put_desc(0, (DATA, 1, WRITE, 0));
    let mut chain = Chain::default();
    for (flags, notify) in [(0, true), (1, false), (0, true)] {
        driver.set_avail_flags(flags);
        // Must be ignored.
        driver.set_used_event(7);
        driver.offer(0);
        assert_eq!(ring.pop(&mut chain).unwrap(), Popped::Request);
        ring.push_used(0, 1);
        assert_eq!(ring.publish(), notify, "flags {flags}");
    }
}

/// Section 2.7.7.2: notify when the entry with index `used_event` was among those just written.
#[test]
fn event_index_says_whether_to_notify() {
    for start in [0u16, 100, 65530] {
        let mut driver = Driver::new(16);
        driver.set_avail_idx(start);
        driver.set_used_idx(start);
        // Must be ignored.
        driver.set_avail_flags(1);
        driver.put_desc(0, (DATA, 1, WRITE, 0));
        let config = RingConfig { next_avail: start, ..driver.config(EVENT_IDX) };
        let mut ring = Ring::new(driver.memory.clone(), config, None).unwrap();
        let mut complete = |driver: &mut Driver, count| {
            for _ in 0..count {
                driver.offer(0);
                assert_eq!(ring.pop(&mut Chain::default()).unwrap(), Popped::Request);
                ring.push_used(0, 1);
            }
            ring.publish()
        };
        let at = |n: u16| start.wrapping_add(n);
        assert!(complete(&mut driver, 1), "the first may be what a driver of an earlier process waits for");
        driver.set_used_event(at(3));
        assert!(!complete(&mut driver, 2), "entries 1 and 2");
        assert!(complete(&mut driver, 4), "entries 3 to 6");
        assert!(!complete(&mut driver, 1), "entry 7: the event is behind");
        driver.set_used_event(at(9));
        assert!(complete(&mut driver, 2), "entries 8 and 9");
        driver.set_used_event(at(10));
        assert!(complete(&mut driver, 1), "entry 10");
    }
}

#[test]
fn a_driver_that_was_told_not_to_kick_does_not_whatever_it_offers() {
    for offered in [1, 2, 7] {
        let driver = Driver::new(8);
        let mut ring = driver.ring(EVENT_IDX);
        driver.put_desc(0, (DATA, 1, WRITE, 0));
        assert!(!ring.arm_kicks().unwrap());
        assert!(kicks(&driver, offered), "armed");
        ring.suppress_kicks();
        assert!(!kicks(&driver, offered), "told not to");
    }
}

/// Whether a driver that has offered nothing so far kicks after `offered` entries (section 2.7.10.1).
fn kicks(driver: &Driver, offered: u16) -> bool {
    let (old, new) = (0u16, offered);
    new.wrapping_sub(driver.avail_event()).wrapping_sub(1) < new.wrapping_sub(old)
}

#[test]
fn arming_kicks_finds_what_came_meanwhile() {
    for features in [0, EVENT_IDX] {
        let mut driver = Driver::new(8);
        let mut ring = driver.ring(features);
        driver.put_desc(0, (DATA, 1, WRITE, 0));
        ring.suppress_kicks();
        assert_eq!(driver.used_flags(), u16::from(features == 0));
        assert!(!ring.arm_kicks().unwrap());
        assert_eq!((driver.used_flags(), driver.avail_event()), (0, 0));
        driver.offer(0);
        assert!(ring.arm_kicks().unwrap());
        assert_eq!(ring.pop(&mut Chain::default()).unwrap(), Popped::Request);
        assert!(!ring.arm_kicks().unwrap());
        assert_eq!(driver.avail_event(), u16::from(features != 0));
    }
}
