//! Stopping, resuming, and a back-end that dies.

use tidemark_frontend::{DeviceOptions, Notify, Request, Status};

use crate::daemon::{Daemon, PATIENCE};

#[test]
fn a_stopped_queue_says_where_it_stands_and_resumes_there() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let mut device = daemon.connect(DeviceOptions::default());
    let mut queue = device.start().unwrap().remove(0);
    for _ in 0..5 {
        queue.run(&Request::Flush, PATIENCE).unwrap();
    }
    assert_eq!(device.stop_queue(0).unwrap(), 5);
    queue.submit(&Request::Flush).unwrap();
    device.start_queue(0).unwrap();
    assert!(queue.wait(PATIENCE).unwrap());
    assert_eq!(queue.pop().unwrap().unwrap().status, Status::Ok);
    assert_eq!(device.stop_queue(0).unwrap(), 6);
}

#[test]
fn a_request_sent_to_a_dead_back_end_completes_with_its_successor() {
    for notify in [Notify::Poll, Notify::Wait] {
        let mut daemon = Daemon::with_file(1 << 20, 0);
        let mut device = daemon.connect(DeviceOptions::default().with_notify(notify));
        let mut queue = device.start().unwrap().remove(0);
        let data = [device.arena().alloc(512, 512).unwrap()];
        device.memory().fill(data[0], 0x77).unwrap();
        queue.run(&Request::Write { offset: 0, data: &data }, PATIENCE).unwrap();

        assert!(!device.is_closed());
        daemon.kill_and_restart();
        let token = queue.submit(&Request::Write { offset: 512, data: &data }).unwrap();
        assert!(device.is_closed());
        device.reconnect().unwrap();
        assert!(queue.wait(PATIENCE).unwrap());
        let done = queue.pop().unwrap().unwrap();
        assert_eq!((done.token, done.status), (token, Status::Ok));
        assert_eq!(queue.pop().unwrap(), None);
        assert_eq!(std::fs::read(daemon.disk()).unwrap()[..1024], [0x77; 1024]);
    }
}
