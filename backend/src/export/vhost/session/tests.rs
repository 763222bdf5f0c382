//! Sessions over a real socket: crate `vhost`'s front-end on one side, real queue threads on the other.

mod guest;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserInflight};
use vhost::vhost_user::{VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::config::PROTOCOL_FEATURES;
use super::super::ring::driver::{DATA, NEXT, WRITE};
use guest::{CONFIG_WCE, Export, FLUSH, Guest, LONG, OK, SHORT, SIZE, UNANSWERED, VERSION_1, rang};

#[test]
fn request_is_served_once_the_ring_is_known_and_enabled() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    guest.set_up();
    for _ in 0..40 {
        let status = guest.submit();
        assert!(guest.answered(status));
    }
    assert_eq!(guest.driver.used_idx(), 40);
    assert!(!rang(&guest.err, 0));
}

#[test]
fn device_says_how_many_queues_and_regions_it_takes() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    assert_eq!(guest.frontend.get_queue_num().unwrap(), 2);
    assert_eq!(guest.frontend.get_max_mem_slots().unwrap(), 509);
    let offered = guest.frontend.get_protocol_features().unwrap();
    assert!(offered.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD | VhostUserProtocolFeatures::RESET_DEVICE));
    assert!(!offered.contains(VhostUserProtocolFeatures::STATUS));
    assert!(guest.frontend.set_vring_num(1, SIZE + 1).is_err());
    assert!(guest.frontend.set_vring_num(1, SIZE).is_ok(), "a refusal does not end the session");
}

#[test]
fn kick_before_enable_is_not_lost() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    guest.set_memory();
    guest.set_ring(0);
    let status = guest.submit();
    assert!(!rang(&guest.call, 50), "a disabled ring is not served");
    guest.frontend.set_vring_enable(0, true).unwrap();
    assert!(guest.answered(status));
    guest.frontend.set_vring_enable(0, false).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let status = guest.submit();
    assert!(!rang(&guest.call, 50), "nor one that is disabled again");
    guest.frontend.set_vring_enable(0, true).unwrap();
    assert!(guest.answered(status));
}

#[test]
fn messages_about_a_ring_may_come_in_any_order() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    guest.frontend.set_vring_kick(0, &guest.kick).unwrap();
    guest.frontend.set_vring_call(0, &guest.call).unwrap();
    guest.frontend.set_vring_addr(0, &guest.addresses()).unwrap();
    guest.set_memory();
    guest.frontend.set_vring_num(0, SIZE).unwrap();
    let status = guest.submit();
    guest.frontend.set_vring_enable(0, true).unwrap();
    assert!(guest.answered(status) || guest.answered(status));
}

#[test]
fn vring_base_is_answered_when_the_queue_is_drained() {
    let export = Export::new(LONG);
    let mut guest = export.connect();
    guest.set_up();
    let status = [guest.submit(), guest.submit()];
    std::thread::sleep(LONG / 8);
    assert_eq!(guest.driver.used_idx(), 0);
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 2);
    assert_eq!((guest.driver.used_idx(), status.map(|at| guest.status(at))), (2, [OK, OK]));

    let late = guest.submit();
    std::thread::sleep(LONG * 2);
    assert_eq!(guest.status(late), UNANSWERED, "a stopped ring is not served");
    let _ = rang(&guest.call, 0);
    guest.set_ring(2);
    assert!(guest.answered(late));
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 3);
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 0, "a ring that never ran");
}

#[test]
fn call_and_kick_descriptors_can_be_replaced_while_the_ring_runs() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    guest.set_up();
    for _ in 0..5 {
        guest.call = EventFd::new(EFD_NONBLOCK).unwrap();
        guest.frontend.set_vring_call(0, &guest.call).unwrap();
        guest.kick = EventFd::new(EFD_NONBLOCK).unwrap();
        guest.frontend.set_vring_kick(0, &guest.kick).unwrap();
        let status = guest.submit();
        // The first ring may be for requests of the old descriptor.
        assert!(guest.answered(status) || guest.answered(status));
    }
}

#[test]
fn session_ends_after_its_io_and_the_next_one_finds_the_device_as_new() {
    let export = Export::new(LONG);
    let mut first = export.connect();
    first.set_up();
    let status = first.submit();
    std::thread::sleep(LONG / 8);
    let begun = Instant::now();
    first.leave();
    assert_eq!((first.status(status), first.driver.used_idx()), (OK, 1), "the session ended with I/O in flight");
    assert!(begun.elapsed() > LONG / 4);

    let mut second = export.connect();
    second.set_up();
    let status = second.submit();
    assert!(second.answered(status));
}

#[test]
fn configuration_change_reaches_the_front_end_on_its_channel() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    export.link.config_changed();
    let (mut near, far) = UnixStream::pair().unwrap();
    guest.frontend.set_backend_request_fd(&far).unwrap();
    drop(far);
    near.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // The acknowledgement comes before the link knows the channel: another round trip waits for that.
    guest.frontend.get_queue_num().unwrap();
    export.link.config_changed();
    let mut message = [0; 12];
    near.read_exact(&mut message).unwrap();
    let words: Vec<u32> = message.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [2, 1, 0]);
}

#[test]
fn write_cache_is_what_driver_and_operator_agree_on() {
    let has_cache = |export: &Export| export.shared.has_write_cache();
    let export = Export::new(SHORT);
    assert!(has_cache(&export));
    let mut guest = export.connect();
    let write = |guest: &mut Guest, offset, bytes: &[u8]| {
        guest.frontend.set_config(offset, VhostUserConfigFlags::empty(), bytes)
    };
    let read = |guest: &mut Guest| guest.frontend.get_config(32, 1, VhostUserConfigFlags::WRITABLE, &[0]).unwrap().1;
    assert_eq!(read(&mut guest), [1]);
    write(&mut guest, 32, &[0]).unwrap();
    assert!(!has_cache(&export));
    assert_eq!(read(&mut guest), [0]);
    assert!(write(&mut guest, 0, &[0; 8]).is_err());
    assert!(write(&mut guest, 32, &[2]).is_err());
    write(&mut guest, 32, &[1]).unwrap();
    assert!(has_cache(&export));
    for (features, cache) in [(CONFIG_WCE, true), (FLUSH, true), (0, true)] {
        guest.frontend.set_features(PROTOCOL_FEATURES | VERSION_1 | features).unwrap();
        assert_eq!(has_cache(&export), cache, "the driver has chosen");
    }
    guest.frontend.reset_device().unwrap();
    for (features, cache) in [(CONFIG_WCE, false), (FLUSH, true), (0, false)] {
        guest.frontend.set_features(PROTOCOL_FEATURES | VERSION_1 | features).unwrap();
        assert_eq!(has_cache(&export), cache, "features {features:#x}");
    }

    let export = Export::with(SHORT, true);
    let mut guest = export.connect();
    assert_eq!(read(&mut guest), [0]);
    assert!(write(&mut guest, 32, &[1]).is_err());
    assert!(!has_cache(&export));
}

/// A front-end does not repeat SET_CONFIG after a reconnect, and a guest that was told of no cache does not flush.
#[test]
fn cache_that_a_driver_has_switched_off_stays_off_for_the_next_process() {
    let wanted = VhostUserInflight { num_queues: 2, queue_size: SIZE, ..VhostUserInflight::default() };
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    let (area, file) = guest.frontend.get_inflight_fd(&wanted).unwrap();
    guest.frontend.set_config(32, VhostUserConfigFlags::empty(), &[0]).unwrap();
    guest.leave();

    let export = Export::new(SHORT);
    let mut next = export.connect();
    assert!(export.shared.has_write_cache());
    next.frontend.set_inflight_fd(&area, file.as_raw_fd()).unwrap();
    next.frontend.set_features(PROTOCOL_FEATURES | VERSION_1 | FLUSH | CONFIG_WCE).unwrap();
    assert!(!export.shared.has_write_cache());
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    assert!(guest.frontend.set_features(PROTOCOL_FEATURES | VERSION_1 | 1 << 40).is_err());
    assert!(guest.frontend.get_queue_num().is_ok());
}

#[test]
fn memory_regions_come_and_go_while_the_ring_runs() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    guest.set_up();
    let file = guest.driver.clone_file();
    let high = VhostUserMemoryRegionInfo {
        guest_phys_addr: 1 << 40,
        memory_size: 0x1_0000,
        userspace_addr: 1 << 41,
        mmap_offset: DATA,
        mmap_handle: file.as_raw_fd(),
    };
    guest.frontend.add_mem_region(&high).unwrap();
    assert!(guest.frontend.add_mem_region(&high).is_err(), "it overlaps itself");
    // A request with its status in the new region, which is the old one's data.
    let read_into_high = |guest: &mut Guest| {
        guest.driver.put(DATA + 0x9000, &[UNANSWERED]);
        guest.driver.put_desc(15, ((1 << 40) + 0x9000, 1, WRITE, 0));
        guest.driver.put_desc(14, (DATA + 0x1000, 512, NEXT | WRITE, 15));
        guest.driver.put_desc(13, (DATA, 16, NEXT, 14));
        guest.driver.offer(13);
        guest.kick.write(1).unwrap();
        guest.answered(DATA + 0x9000)
    };
    assert!(read_into_high(&mut guest));
    guest.frontend.remove_mem_region(&high).unwrap();
    assert!(guest.frontend.remove_mem_region(&high).is_err());
    let status = guest.submit();
    assert!(guest.answered(status));
    assert!(!read_into_high(&mut guest));
    assert!(rang(&guest.err, 1000), "its status cannot be written");
}

#[test]
fn whole_memory_table_can_be_replaced_under_io() {
    let export = Export::new(LONG);
    let mut guest = export.connect();
    guest.set_up();
    let status = guest.submit();
    std::thread::sleep(LONG / 8);
    guest.set_memory();
    assert!(guest.answered(status));
    let status = guest.submit();
    assert!(guest.answered(status));
}

#[test]
fn broken_ring_stops_its_queue_and_not_the_session() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    guest.set_up();
    guest.driver.set_avail_idx(SIZE + 1);
    guest.kick.write(1).unwrap();
    assert!(rang(&guest.err, 2000));
    assert_eq!(guest.frontend.get_queue_num().unwrap(), 2);
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 0);
}

#[test]
fn ring_outside_memory_is_refused_and_the_session_goes_on() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    guest.frontend.set_vring_num(0, SIZE).unwrap();
    guest.frontend.set_vring_addr(0, &guest.addresses()).unwrap();
    guest.frontend.set_vring_err(0, &guest.err).unwrap();
    assert!(guest.frontend.set_vring_kick(0, &guest.kick).is_err(), "there is no memory yet");
    assert!(rang(&guest.err, 0));
    guest.set_up();
    let status = guest.submit();
    assert!(guest.answered(status));
}

#[test]
fn truncated_guest_memory_ends_the_session_and_not_the_export() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    guest.set_up();
    let status = guest.submit();
    assert!(guest.answered(status));
    guest.driver.clone_file().set_len(0).unwrap();
    guest.kick.write(1).unwrap();
    guest.session_ended();

    let mut next = export.connect();
    next.set_up();
    let status = next.submit();
    assert!(next.answered(status));
}

#[test]
fn reset_stops_the_rings_and_keeps_the_connection() {
    let export = Export::new(LONG);
    let mut guest = export.connect();
    guest.set_up();
    let status = guest.submit();
    std::thread::sleep(LONG / 8);
    guest.frontend.reset_device().unwrap();
    assert_eq!(guest.status(status), OK, "the reset was answered before the I/O ended");
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 0);
    let _ = rang(&guest.call, 0);
    guest.frontend.set_features(PROTOCOL_FEATURES | VERSION_1).unwrap();
    guest.driver.set_avail_idx(0);
    guest.driver.set_used_idx(0);
    // Memory belongs to the connection.
    guest.set_ring(0);
    guest.frontend.set_vring_enable(0, true).unwrap();
    let status = guest.submit();
    assert!(guest.answered(status));
}

#[test]
fn requests_in_flight_are_noted_and_done_by_the_next_session() {
    let export = Export::new(SHORT);
    let mut guest = export.connect();
    let wanted = VhostUserInflight { num_queues: 2, queue_size: SIZE, ..VhostUserInflight::default() };
    let (area, file) = guest.frontend.get_inflight_fd(&wanted).unwrap();
    assert_eq!((area.mmap_offset, area.num_queues, area.queue_size), (0, 2, SIZE));
    assert_eq!(file.metadata().unwrap().len(), area.mmap_size);
    guest.frontend.set_inflight_fd(&area, file.as_raw_fd()).unwrap();
    guest.set_up();
    let status = guest.submit();
    assert!(guest.answered(status));
    guest.leave();

    // What a daemon that was killed would have left: head 8 fetched and not answered.
    file.write_all_at(&[1], 16 + 8 * 16).unwrap();
    let mut next = export.connect();
    std::mem::swap(&mut next.driver, &mut guest.driver);
    next.next = 8;
    next.frontend.set_inflight_fd(&area, file.as_raw_fd()).unwrap();
    let status = next.submit();
    next.set_memory();
    next.frontend.set_vring_num(0, SIZE).unwrap();
    // Wrong on purpose: a front-end cannot know.
    next.frontend.set_vring_base(0, 1).unwrap();
    next.frontend.set_vring_addr(0, &next.addresses()).unwrap();
    next.frontend.set_vring_call(0, &next.call).unwrap();
    next.frontend.set_vring_kick(0, &next.kick).unwrap();
    next.frontend.set_vring_enable(0, true).unwrap();
    assert!(next.answered(status) || next.answered(status));
    assert_eq!(next.frontend.get_vring_base(0).unwrap(), 2);
    assert_eq!(next.driver.used_idx(), 2);

    let too_many = VhostUserInflight { num_queues: 3, ..wanted };
    assert!(export.connect().frontend.get_inflight_fd(&too_many).is_err());
}
