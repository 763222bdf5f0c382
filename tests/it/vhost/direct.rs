//! Requests that the storage cannot take as they are: unaligned on a disk with O_DIRECT, scattered in crumbs, in many
//! segments, in a ring without its optional features.

use std::fs::File;
use std::os::unix::fs::FileExt;

use fastrand::Rng;
use tidemark_frontend::{DeviceOptions, GuestBuf, Queue, Request, Status, feature};

use super::daemon::{DISK, Daemon, FILE};
use super::guest::Guest;
use super::load::{Load, finish};

const DIRECT: &str = "driver=file,node-name=n,filename=disk,discard=unmap,cache.direct=on";

/// Cuts a buffer into pieces of these lengths; the last takes the rest.
fn pieces(buf: GuestBuf, lengths: &[u32]) -> Vec<GuestBuf> {
    let mut at = 0;
    let mut cut: Vec<GuestBuf> = Vec::new();
    for len in lengths {
        cut.push(buf.part(at, *len).unwrap());
        at += len;
    }
    if at < buf.len {
        cut.push(buf.part(at, buf.len - at).unwrap());
    }
    cut
}

#[test]
fn unaligned_offsets_addresses_and_lengths_are_served_from_a_disk_with_o_direct() {
    let daemon = Daemon::with_node(DIRECT, "");
    let mut guest = Guest::new(&daemon);
    let mut rng = Rng::with_seed(7);
    let memory = guest.alloc(1 << 20);
    let mut expected = vec![0u8; 1 << 20];
    for _ in 0..400 {
        let len = 512 * rng.u32(1..40);
        let offset = 512 * rng.u64(0..2048 - u64::from(len / 512));
        // Any byte of memory, and a first segment of any length.
        let buf = memory.part(rng.u32(0..5000), len).unwrap();
        let data = pieces(buf, &[rng.u32(1..len)]);
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset).unwrap() + len as usize;
        if rng.bool() {
            let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len as usize).collect();
            guest.device.memory().write(buf.addr, &bytes).unwrap();
            assert_eq!(guest.run(&Request::Write { offset, data: &data }), Status::Ok);
            expected[range].copy_from_slice(&bytes);
        } else {
            assert_eq!(guest.run(&Request::Read { offset, data: &data }), Status::Ok);
            assert!(guest.device.memory().to_vec(buf).unwrap() == expected[range], "{len} bytes at {offset}");
        }
    }
    assert!(daemon.image()[..1 << 20] == expected);
}

#[test]
fn sectors_of_one_block_written_at_the_same_time_on_several_queues_all_arrive() {
    let daemon = Daemon::with_node(DIRECT, "");
    let mut guest = Guest::with(&daemon, DeviceOptions::default().with_queues(4, 64));
    let mut queues: Vec<Queue> = (1..4).map(|index| guest.another_queue(index)).collect();
    let memory = guest.alloc(512 * 256);
    for round in 0..20u8 {
        for (sector, queue) in (0..256).zip((0..3).cycle()) {
            let buf = memory.part(512 * sector, 512).unwrap();
            guest.device.memory().fill(buf, round ^ sector.to_le_bytes()[0]).unwrap();
            let queue = &mut queues[queue];
            // Sectors apart by less than a block: neighbours are in other queues.
            while queue.enqueue(&Request::Write { offset: u64::from(sector) * 512, data: &[buf] }).is_err() {
                queue.publish().unwrap();
                finish(queue, 32);
            }
        }
        queues.iter_mut().for_each(|queue| {
            queue.publish().unwrap();
            finish(queue, 0);
        });
        let expected: Vec<u8> = (0..=255u8).flat_map(|sector| [round ^ sector; 512]).collect();
        assert!(guest.read(0, 512 * 256) == expected, "round {round}");
    }
}

#[test]
fn segments_smaller_than_a_sector_add_up() {
    for node in [FILE, DIRECT] {
        let daemon = Daemon::with_node(node, "");
        let mut guest = Guest::new(&daemon);
        let buf = guest.alloc(4096);
        let crumbs = pieces(buf, &[1, 2, 509, 100, 411, 1, 1024, 3]);
        let bytes: Vec<u8> = (0..4096u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
        guest.device.memory().write(buf.addr, &bytes).unwrap();
        assert_eq!(guest.run(&Request::Write { offset: 512, data: &crumbs }), Status::Ok);
        assert_eq!(daemon.image()[512..4608], bytes);
        guest.device.memory().fill(buf, 0).unwrap();
        assert_eq!(guest.run(&Request::Read { offset: 512, data: &crumbs }), Status::Ok);
        assert_eq!(guest.device.memory().to_vec(buf).unwrap(), bytes);
    }
}

#[test]
fn many_segments_in_one_request_keep_their_order() {
    for indirect in [true, false] {
        for node in [FILE, DIRECT] {
            let daemon = Daemon::with_node(node, "");
            let options = DeviceOptions { max_segments: 250, ..DeviceOptions::default() };
            let mut guest = Guest::with(&daemon, options.with_feature(feature::INDIRECT_DESC, indirect));
            assert_eq!(guest.device.config().unwrap().seg_max, 126);
            // The limit, and beyond: virtio 1.2 binds the driver to it, but many older ones send more.
            for count in [126u32, 127, 250] {
                let buf = guest.alloc(count * 1024);
                // Every other kilobyte backwards, so that neighbours in the list are no neighbours in memory.
                let data: Vec<GuestBuf> = (0..count).rev().map(|at| buf.part(at * 1024, 1024).unwrap()).collect();
                for (piece, byte) in data.iter().zip((1..=250u8).cycle()) {
                    guest.device.memory().fill(*piece, byte).unwrap();
                }
                assert_eq!(guest.run(&Request::Write { offset: 1 << 20, data: &data }), Status::Ok, "{count}");
                let expected: Vec<u8> =
                    (1..=250u8).cycle().take(count as usize).flat_map(|byte| [byte; 1024]).collect();
                let mut bytes = vec![0; expected.len()];
                File::open(daemon.file("disk")).unwrap().read_exact_at(&mut bytes, 1 << 20).unwrap();
                assert!(bytes == expected, "{count} segments, indirect={indirect}");
            }
        }
    }
}

#[test]
fn every_combination_of_ring_features_and_notification_carries_a_load() {
    use tidemark_frontend::Notify;
    for event_idx in [true, false] {
        for indirect in [true, false] {
            for notify in [Notify::Poll, Notify::PollWithoutCall, Notify::Wait] {
                let daemon = Daemon::with_node(FILE, "");
                let options = DeviceOptions::default()
                    .with_feature(feature::EVENT_IDX, event_idx)
                    .with_feature(feature::INDIRECT_DESC, indirect)
                    .with_notify(notify)
                    .with_queues(2, 128);
                let mut device = daemon.connect(options);
                let mut load = Load::new(&mut device, 2, 1);
                load.steps(3000);
                load.drain();
                assert!(daemon.image() == load.expected(DISK), "{event_idx} {indirect} {notify:?}");
            }
        }
    }
}
