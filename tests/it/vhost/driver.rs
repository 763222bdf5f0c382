//! Crate `virtio-driver` as the guest: a driver that nobody here wrote.
//!
//! It wants data in plain slices. Those it gets are private, and the device is told that a memfd lies at their address;
//! copying between the two is what shared memory would do by itself.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use virtio_driver::{
    VhostUser, VirtioBlkConfig, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkReqBuf, VirtioFeatureFlags,
    VirtioTransport,
};

use super::daemon::{DISK, Daemon, FILE};
use crate::cli::process::TIMEOUT;

type Transport = VhostUser<VirtioBlkConfig, VirtioBlkReqBuf>;

/// Kicks and waits for one completion.
fn complete(transport: &Transport, queue: &mut VirtioBlkQueue<'_, u32>, index: usize) -> (u32, i32) {
    transport.get_submission_notifier(index).notify().unwrap();
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(done) = queue.completions().next() {
            return (done.context, done.ret);
        }
        assert!(Instant::now() < deadline, "queue {index} hangs");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn drive(daemon: &Daemon, ring_features: VirtioFeatureFlags) {
    let wanted = VirtioBlkFeatureFlags::MQ | VirtioBlkFeatureFlags::FLUSH | VirtioBlkFeatureFlags::DISCARD;
    let features = wanted.bits() | VirtioBlkFeatureFlags::WRITE_ZEROES.bits() | ring_features.bits();
    let path = daemon.file("blk");
    let mut transport = Transport::new(path.to_str().unwrap(), features).unwrap();
    assert_eq!(u64::from(transport.get_config().unwrap().capacity), DISK / 512);
    let mut queues = VirtioBlkQueue::<u32>::setup_queues(&mut transport, 2, 64).unwrap();
    let shared = File::from(memfd_create("memory", MemfdFlags::CLOEXEC).unwrap());
    let mut private = vec![0u8; 1 << 20];
    shared.set_len(1 << 20).unwrap();
    transport.map_mem_region(private.as_ptr() as usize, 1 << 20, shared.as_raw_fd(), 0).unwrap();
    for (queue, index) in queues.iter_mut().zip(0usize..) {
        let offset = (index as u64) << 21;
        for round in 1..=200u32 {
            let pattern: Vec<u8> = (0..65536u32).map(|at| (at * round).to_le_bytes()[1]).collect();
            shared.write_all_at(&pattern, 0).unwrap();
            queue.write(offset, &private[..65536], round).unwrap();
            assert_eq!(complete(&transport, queue, index), (round, 0));
            queue.flush(7).unwrap();
            assert_eq!(complete(&transport, queue, index), (7, 0));
            shared.write_all_at(&[0; 65536], 65536).unwrap();
            queue.read(offset, &mut private[65536..131_072], 8).unwrap();
            assert_eq!(complete(&transport, queue, index), (8, 0));
            let mut read = vec![0; 65536];
            shared.read_exact_at(&mut read, 65536).unwrap();
            assert!(read == pattern, "queue {index}, round {round}");
        }
        queue.write_zeroes(offset, 4096, true, 9).unwrap();
        assert_eq!(complete(&transport, queue, index), (9, 0));
        queue.discard(offset + 4096, 4096, 10).unwrap();
        assert_eq!(complete(&transport, queue, index), (10, 0));
        let at = usize::try_from(offset).unwrap();
        assert_eq!(daemon.image()[at..at + 4096], [0; 4096]);
        queue.read(DISK, &mut private[..512], 11).unwrap();
        assert_ne!(complete(&transport, queue, index).1, 0, "a read past the end");
    }
    transport.unmap_mem_region(private.as_ptr() as usize, 1 << 20).unwrap();
}

#[test]
fn a_driver_nobody_here_wrote_works_with_and_without_the_optional_ring_features() {
    for daemon in [Daemon::with_node(FILE, ""), Daemon::serve(&[])] {
        let version = VirtioFeatureFlags::VERSION_1;
        drive(&daemon, version);
        drive(&daemon, version | VirtioFeatureFlags::RING_EVENT_IDX);
        drive(&daemon, version | VirtioFeatureFlags::RING_INDIRECT_DESC | VirtioFeatureFlags::RING_EVENT_IDX);
        daemon.stop();
    }
}
