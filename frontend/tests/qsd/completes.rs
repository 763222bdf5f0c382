//! Queues: data both ways, every request kind, every way to be told, several queues at once.

use std::collections::HashMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;

use fastrand::Rng;
use tidemark_frontend::{Device, DeviceOptions, GuestBuf, GuestMemory, Notify, Queue, Request, Status, Token, feature};

use crate::daemon::{Daemon, PATIENCE};

const BLOCK: u32 = 4096;

#[test]
fn random_writes_read_back_on_four_queues_in_every_mode() {
    for event_idx in [true, false] {
        for indirect in [true, false] {
            // Without a call eventfd this back-end cannot serve a queue with EVENT_IDX: it has to notify once.
            let polling = if event_idx { Notify::Poll } else { Notify::PollWithoutCall };
            for notify in [polling, Notify::Wait] {
                let options = DeviceOptions::default()
                    .with_feature(feature::EVENT_IDX, event_idx)
                    .with_feature(feature::INDIRECT_DESC, indirect)
                    .with_notify(notify)
                    .with_queues(4, 64);
                write_and_verify(options);
            }
        }
    }
}

/// Each queue writes its own quarter of the disk at depth, reads it back, and the file has to agree.
fn write_and_verify(options: DeviceOptions) {
    let mode = format!("{:#x} {:?}", options.features, options.notify);
    let daemon = Daemon::with_file(4 << 20, 0);
    let mut device = daemon.connect(options);
    let (memory, queues) = (device.memory(), device.start().unwrap());
    let bufs: Vec<Vec<GuestBuf>> = queues.iter().map(|_| buffers(&mut device, 16)).collect();
    let expected: Vec<u8> = thread::scope(|scope| {
        let threads: Vec<_> = queues
            .into_iter()
            .zip(bufs)
            .map(|(queue, bufs)| scope.spawn(|| churn(queue, bufs, memory.clone())))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(std::fs::read(daemon.disk()).unwrap() == expected, "file differs from what was written: {mode}");
}

fn churn(mut queue: Queue, bufs: Vec<GuestBuf>, memory: GuestMemory) -> Vec<u8> {
    let mut rng = Rng::with_seed(u64::from(queue.index()));
    let base = u64::from(queue.index()) << 20;
    let mut quarter = vec![0u8; 1 << 20];
    for round in 0..64u32 {
        let mut pending = HashMap::<Token, GuestBuf>::new();
        let mut blocks: Vec<usize> = (0..256).collect();
        rng.shuffle(&mut blocks);
        for (buf, block) in bufs.iter().zip(&blocks) {
            let start = block * BLOCK as usize;
            let (offset, data) = (base + start as u64, std::slice::from_ref(buf));
            let token = if round % 2 == 0 {
                let fill: Vec<u8> = (0..BLOCK).map(|_| rng.u8(..)).collect();
                memory.write(buf.addr, &fill).unwrap();
                quarter[start..start + BLOCK as usize].copy_from_slice(&fill);
                queue.enqueue(&Request::Write { offset, data })
            } else {
                memory.fill(*buf, 0xee).unwrap();
                queue.enqueue(&Request::Read { offset, data })
            };
            pending.insert(token.unwrap(), *buf);
        }
        drain(&mut queue, &mut pending);
        if round % 2 == 1 {
            for (buf, block) in bufs.iter().zip(&blocks) {
                let start = block * BLOCK as usize;
                assert!(memory.to_vec(*buf).unwrap() == quarter[start..start + BLOCK as usize], "block {block}");
            }
        }
    }
    quarter
}

fn drain(queue: &mut Queue, pending: &mut HashMap<Token, GuestBuf>) {
    queue.publish().unwrap();
    while !pending.is_empty() {
        assert!(queue.wait(PATIENCE).unwrap(), "{} requests did not complete", pending.len());
        let count = queue.poll(|done| {
            assert_eq!(done.status, Status::Ok);
            assert!(pending.remove(&done.token).is_some(), "completed twice: {:?}", done.token);
        });
        assert!(count.unwrap() > 0);
    }
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn scattered_segments_arrive_in_order() {
    for indirect in [true, false] {
        let daemon = Daemon::with_file(1 << 20, 0);
        let (mut device, mut queue) = one_queue(&daemon, indirect);
        let bufs = buffers(&mut device, 5);
        for (buf, byte) in bufs.iter().zip(1u8..) {
            device.memory().fill(*buf, byte).unwrap();
        }
        let done = queue.run(&Request::Write { offset: 8192, data: &bufs }, PATIENCE).unwrap();
        assert_eq!((done.status, done.written_len), (Status::Ok, 1));
        let expected: Vec<u8> = (1u8..=5).flat_map(|byte| [byte; BLOCK as usize]).collect();
        let disk = std::fs::read(daemon.disk()).unwrap();
        assert_eq!(disk[8192..8192 + 5 * 4096], expected[..]);
        assert_eq!(disk[..8192], [0; 8192]);
    }
}

#[test]
fn flush_and_get_id_succeed() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let (mut device, mut queue) = one_queue(&daemon, true);
    assert_eq!(queue.run(&Request::Flush, PATIENCE).unwrap().status, Status::Ok);
    let data = device.arena().alloc(20, 16).unwrap();
    assert_eq!(queue.run(&Request::GetId { data }, PATIENCE).unwrap().status, Status::Ok);
    assert_eq!(device.memory().to_vec(data).unwrap(), b"vhost_user_blk\0\0\0\0\0\0");
}

#[test]
fn discard_gives_blocks_back_to_the_file_system() {
    let daemon = Daemon::with_file(4 << 20, 0xaa);
    let (_device, mut queue) = one_queue(&daemon, true);
    let before = std::fs::metadata(daemon.disk()).unwrap().blocks();
    let done = queue.run(&Request::Discard { offset: 1 << 20, len: 2 << 20 }, PATIENCE).unwrap();
    assert_eq!(done.status, Status::Ok);
    assert!(std::fs::metadata(daemon.disk()).unwrap().blocks() < before);
    assert_eq!(byte_at(&daemon, (1 << 20) - 1), 0xaa);
    assert_eq!(byte_at(&daemon, 3 << 20), 0xaa);
}

#[test]
fn write_zeroes_zeroes_exactly_its_range() {
    for unmap in [true, false] {
        let daemon = Daemon::with_file(1 << 20, 0xaa);
        let (_device, mut queue) = one_queue(&daemon, unmap);
        let request = Request::WriteZeroes { offset: 65536, len: 65536, unmap };
        assert_eq!(queue.run(&request, PATIENCE).unwrap().status, Status::Ok);
        let bytes = [65535, 65536, 131_071, 131_072].map(|offset| byte_at(&daemon, offset));
        assert_eq!(bytes, [0xaa, 0, 0, 0xaa], "unmap={unmap}");
    }
}

#[test]
fn the_used_ring_may_wrap_many_times() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let mut device = daemon.connect(DeviceOptions::default().with_queues(1, 8));
    let mut queue = device.start().unwrap().remove(0);
    // More than 2^16 completions, so that every index wraps, and the wish not to be notified is renewed.
    let mut left = 70_000u32;
    while left > 0 {
        for _ in 0..left.min(8) {
            queue.enqueue(&Request::Flush).unwrap();
        }
        queue.publish().unwrap();
        while queue.in_flight() > 0 {
            assert!(queue.wait(PATIENCE).unwrap());
            queue.poll(|done| assert_eq!(done.status, Status::Ok)).unwrap();
        }
        left -= left.min(8);
    }
}

fn one_queue(daemon: &Daemon, indirect: bool) -> (Device, Queue) {
    let mut device = daemon.connect(DeviceOptions::default().with_feature(feature::INDIRECT_DESC, indirect));
    let queue = device.start().unwrap().remove(0);
    (device, queue)
}

fn buffers(device: &mut Device, count: usize) -> Vec<GuestBuf> {
    (0..count).map(|_| device.arena().alloc(BLOCK, 4096).unwrap()).collect()
}

fn byte_at(daemon: &Daemon, offset: u64) -> u8 {
    let mut byte = [0];
    std::fs::File::open(daemon.disk()).unwrap().read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}
