//! fio writes checksummed blocks through Linux's own driver and reads them back, at several depths, on
//! one queue and on four. A block that comes back wrong, late or not at all fails.

use crate::backend::{Backend, Disk, MIB};
use crate::guest::{Guest, on_guest};
use crate::machine::{Boot, Device};

/// A fio command line: `job` with checksums on every block and an end at the first wrong one. The sizes
/// go from `smallest` bytes, which is the disk's logical block, to 64 KiB.
pub fn fio(smallest: u32, job: &str) -> String {
    format!(
        "fio --name=global --filename=/dev/vda --ioengine=libaio --direct=1 --bsrange={smallest}-65536 \
         --verify=crc32c --verify_fatal=1 --name=job {job}"
    )
}

#[test]
fn fio_reads_back_what_it_wrote_at_every_depth() {
    on_guest(Disk::new(32 * MIB), |guest, _| {
        for depth in [1, 2, 8, 32] {
            guest.run(&fio(512, &format!("--rw=randwrite --size=16M --iodepth={depth} --randseed={depth}")));
        }
    });
}

#[test]
fn fio_finds_no_wrong_block_when_reads_and_writes_mix() {
    on_guest(Disk::new(32 * MIB), |guest, _| {
        guest.run(&fio(512, "--rw=randrw --size=24M --iodepth=32"));
        guest.run(&fio(512, "--rw=rw --size=24M --iodepth=16"));
    });
}

#[test]
fn what_fio_wrote_is_in_the_image_after_the_disk_went_to_another_guest() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        guest.run(&fio(4096, "--rw=randwrite --size=16M --iodepth=16 --do_verify=0"));
        guest.unplug();
        guest.plug(backend, Device::default());
        guest.run(&fio(4096, "--rw=randwrite --size=16M --iodepth=16 --verify_only=1"));
    });
}

#[test]
fn four_queues_carry_requests_and_lose_none() {
    let backend = Backend::start(Disk { queues: 4, ..Disk::new(64 * MIB) });
    let device = Device { queues: Some(4), ..Device::default() };
    let mut guest = Guest::boot(4, Boot::Kernel, &backend, device);
    assert_eq!(guest.run("ls /sys/block/vda/mq | wc -l").trim(), "4");

    // A job on each virtual CPU, so that each queue has work, and each on its own quarter of the disk.
    let four = "--rw=randwrite --numjobs=4 --size=8M --offset_increment=16M --iodepth=8 \
                --cpus_allowed=0-3 --cpus_allowed_policy=split";
    guest.run(&fio(512, four));
    let interrupts =
        guest.run("awk '/virtio[0-9]+-req/ { n = 0; for (i = 2; i <= 5; i++) n += $i; print n }' /proc/interrupts");
    let counts: Vec<u64> = interrupts.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(counts.len(), 4, "interrupts of the queues: {counts:?}");
    assert!(counts.iter().all(|&count| count > 0), "a queue that completed nothing: {counts:?}");
    guest.power_off();
    backend.stop();
}

#[test]
fn one_queue_serves_four_virtual_cpus() {
    let backend = Backend::start(Disk::new(64 * MIB));
    let device = Device { queues: Some(1), ..Device::default() };
    let mut guest = Guest::boot(4, Boot::Kernel, &backend, device);
    assert_eq!(guest.run("ls /sys/block/vda/mq | wc -l").trim(), "1");
    guest.run(&fio(512, "--rw=randwrite --numjobs=4 --size=8M --offset_increment=16M --iodepth=8"));
    guest.power_off();
    backend.stop();
}
