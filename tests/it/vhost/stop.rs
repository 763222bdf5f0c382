//! GET_VRING_BASE: answered when the queue's I/O has ended, with the index to go on at.

use std::time::{Duration, Instant};

use tidemark_frontend::{DeviceOptions, Request};

use super::daemon::Daemon;
use super::guest::Guest;
use super::load::finish;

const SLOW: &str = "driver=blkdebug,node-name=n,x-delay-ns.read=400000000,image.driver=file,image.filename=disk";
/// The delay of a read.
const DELAY: Duration = Duration::from_millis(400);

fn enqueue_reads(guest: &mut Guest, count: u16) {
    for _ in 0..count {
        let data = [guest.alloc(4096)];
        guest.queue.enqueue(&Request::Read { offset: 0, data: &data }).unwrap();
    }
    guest.queue.publish().unwrap();
}

#[test]
fn the_base_is_answered_after_the_io_in_flight_has_ended() {
    let daemon = Daemon::with_node(SLOW, "");
    let mut guest = Guest::new(&daemon);
    enqueue_reads(&mut guest, 5);
    std::thread::sleep(DELAY / 4);
    let start = Instant::now();
    assert_eq!(guest.device.stop_queue(0).unwrap(), 5);
    assert_eq!(guest.queue.ring().used_idx().unwrap(), 5, "all of it is in the used ring by now");
    assert!(start.elapsed() > DELAY / 4, "answered after {:?}", start.elapsed());
    finish(&mut guest.queue, 0);
}

#[test]
fn other_queues_go_on_while_one_is_stopped_and_a_stopped_one_starts_again() {
    let daemon = Daemon::with_node(SLOW, "");
    let mut guest = Guest::with(&daemon, DeviceOptions::default().with_queues(2, 64));
    let mut other = guest.another_queue(1);
    for served in [4, 9, 14] {
        enqueue_reads(&mut guest, 4);
        std::thread::sleep(DELAY / 8);
        assert_eq!(guest.device.stop_queue(0).unwrap(), served);
        finish(&mut guest.queue, 0);
        let data = [guest.alloc(512)];
        guest.queue.submit(&Request::Write { offset: 0, data: &data }).unwrap();
        guest.check(&mut other, 7);
        assert!(!guest.queue.wait(Duration::from_millis(20)).unwrap(), "a stopped queue is not served");
        guest.device.start_queue(0).unwrap();
        finish(&mut guest.queue, 0);
    }
}
