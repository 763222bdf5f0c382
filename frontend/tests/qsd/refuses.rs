//! Bad input: what the bare ring can put before a back-end, and what the well-behaved queue refuses to.

use tidemark_frontend::{
    DESC_F_NEXT, Descriptor, DeviceOptions, Error, GuestBuf, Request, Segment, Status, feature, request_type,
};

use crate::daemon::{Daemon, PATIENCE};

#[test]
fn a_request_beyond_the_end_is_an_error_of_the_device() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let mut device = daemon.connect(DeviceOptions::default());
    let mut queue = device.start().unwrap().remove(0);
    let data = [device.arena().alloc(4096, 4096).unwrap()];
    let done = queue.run(&Request::Read { offset: 1 << 20, data: &data }, PATIENCE).unwrap();
    assert_eq!(done.status, Status::IoError);
}

#[test]
fn an_unknown_request_type_is_unsupported() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let mut device = daemon.connect(DeviceOptions::default());
    let mut queue = device.start().unwrap().remove(0);
    let buf = device.arena().alloc(512, 512).unwrap();
    let segments = [Segment { buf, device_writes: true }];
    let request = Request::Raw { kind: 0x4711, sector: 0, segments: &segments };
    assert_eq!(queue.run(&request, PATIENCE).unwrap().status, Status::Unsupported);
    let flush = Request::Raw { kind: request_type::FLUSH, sector: 0, segments: &[] };
    assert_eq!(queue.run(&flush, PATIENCE).unwrap().status, Status::Ok);
}

#[test]
fn a_loop_of_descriptors_completes_nothing() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let mut device = daemon.connect(DeviceOptions::default().with_feature(feature::INDIRECT_DESC, false));
    let queue = device.start().unwrap().remove(0);
    for (index, next) in [(0, 1), (1, 0)] {
        let descriptor = Descriptor { addr: 0, len: 16, flags: DESC_F_NEXT, next };
        queue.ring().write_descriptor(index, descriptor).unwrap();
    }
    queue.ring().offer(0).unwrap();
    queue.doorbell().kick().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(queue.ring().used_idx().unwrap(), 0);
}

#[test]
fn a_completion_nobody_asked_for_is_reported_not_believed() {
    // A back-end is played by hand: the ring is ordinary memory as long as no queue is started.
    let daemon = Daemon::with_file(1 << 20, 0);
    let mut device = daemon.connect(DeviceOptions::default());
    let mut queue = device.create_queue(0).unwrap();
    let used = queue.ring().layout().used;
    device.memory().write(used + 2, &1u16.to_le_bytes()).unwrap();
    assert!(matches!(queue.pop(), Err(Error::UsedRing { .. })), "used index ahead of what is in flight");
    queue.enqueue(&Request::Flush).unwrap();
    device.memory().write(used + 4, &77u32.to_le_bytes()).unwrap();
    assert!(matches!(queue.pop(), Err(Error::UsedRing { .. })), "head 77 is not in flight");
    device.memory().write(used + 4, &0x1_0000u32.to_le_bytes()).unwrap();
    assert!(matches!(queue.pop(), Err(Error::UsedRing { .. })), "head 65536 is none");
}

#[test]
fn a_full_queue_says_so_and_goes_on_after_a_completion() {
    for (indirect, room) in [(true, 8), (false, 2)] {
        let daemon = Daemon::with_file(1 << 20, 0);
        let options = DeviceOptions::default().with_queues(1, 8).with_feature(feature::INDIRECT_DESC, indirect);
        let mut device = daemon.connect(options);
        let mut queue = device.start().unwrap().remove(0);
        let data = [device.arena().alloc(512, 512).unwrap()];
        let read = Request::Read { offset: 0, data: &data };
        for _ in 0..room {
            queue.enqueue(&read).unwrap();
        }
        assert!(matches!(queue.enqueue(&read), Err(Error::QueueFull { queue: 0 })));
        queue.publish().unwrap();
        assert!(queue.wait(PATIENCE).unwrap());
        queue.pop().unwrap().unwrap();
        queue.enqueue(&read).unwrap();
    }
}

#[test]
fn what_cannot_be_said_in_sectors_is_refused_before_the_ring() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let mut queue = daemon.connect(DeviceOptions::default()).create_queue(0).unwrap();
    let data = [GuestBuf { addr: 0, len: 512 }];
    assert!(matches!(queue.enqueue(&Request::Read { offset: 100, data: &data }), Err(Error::Invalid { .. })));
    let huge = Request::Discard { offset: 0, len: 1 << 42 };
    assert!(matches!(queue.enqueue(&huge), Err(Error::Invalid { .. })));
    assert_eq!(queue.in_flight(), 0);
}
