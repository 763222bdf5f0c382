//! The back-end dies of SIGKILL under load and is started again: to the guest that is a pause, never an
//! error, a hang or a wrong byte, whatever the order in which requests were completed. And the other way
//! round: a guest that dies under load leaves the back-end working.

use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::backend::{Backend, Disk, MIB, Storage};
use crate::guest::{Guest, on_guest};
use crate::machine::{Boot, Device};
use crate::verify::fio;

const ROUNDS: u32 = 10;

/// The guest has to go on this soon after the back-end is back, on a machine that has other things to do as well.
pub const RESUME: Duration = Duration::from_secs(30);

/// One fio after the other until /tmp/stop is there. Two jobs: one writes and then verifies what it wrote,
/// the other reads; with slow reads the writes overtake them.
pub fn load(depth: u32) -> String {
    format!(
        "rm -f /tmp/stop; while [ ! -e /tmp/stop ]; do \
         fio --name=global --filename=/dev/vda --ioengine=libaio --direct=1 --iodepth={depth} --randrepeat=0 \
         --name=writer --rw=randwrite --bsrange=512-65536 --size=16M --verify=crc32c --verify_fatal=1 \
         --name=reader --rw=randread --bs=16k --offset=16M --size=16M || exit 1; done"
    )
}

/// Waits until the guest has completed `count` more requests.
pub fn progress(guest: &mut Guest, count: u64) {
    let completed = "awk '{ print $1 + $5 }' /sys/block/vda/stat";
    let before = guest.number(completed);
    guest.until(RESUME, &format!("[ $({completed}) -gt {} ]", before + count));
}

fn crashes_go_unnoticed(disk: Disk, depth: u32, seed: u64) {
    let mut random = Rng::with_seed(seed);
    on_guest(disk, |guest, backend| {
        guest.spawn(&load(depth));
        for round in 0..ROUNDS {
            progress(guest, 50);
            thread::sleep(Duration::from_millis(random.u64(0..200)));
            if round % 2 == 0 {
                // For sure with requests in flight, which the guest could hardly catch in the act otherwise.
                backend.freeze();
                guest.until(RESUME, "read reads writes </sys/block/vda/inflight; [ $((reads + writes)) -gt 0 ]");
            }
            backend.crash();
            thread::sleep(Duration::from_millis(random.u64(0..300)));
            backend.restart();
            println!("round {round}: killed and started again");
        }
        progress(guest, 50);
        guest.run("touch /tmp/stop");
        guest.join(Duration::from_secs(60));
    });
}

#[test]
fn ten_crashes_under_load_are_a_pause_to_the_guest() {
    crashes_go_unnoticed(Disk::new(32 * MIB), 16, 1);
}

#[test]
fn ten_crashes_with_one_request_at_a_time_are_a_pause_to_the_guest() {
    crashes_go_unnoticed(Disk::new(32 * MIB), 1, 2);
}

#[test]
fn ten_crashes_with_slow_reads_and_fast_writes_are_a_pause_to_the_guest() {
    let storage = Storage::SlowReads(Duration::from_millis(20));
    crashes_go_unnoticed(Disk { storage, ..Disk::new(32 * MIB) }, 16, 3);
}

#[test]
fn slow_reads_are_slow_to_the_guest_and_writes_are_not() {
    let storage = Storage::SlowReads(Duration::from_millis(200));
    on_guest(Disk { storage, ..Disk::new(16 * MIB) }, |guest, _| {
        // Fields 4 and 8: milliseconds the requests took, all reads and all writes together.
        let reads = guest.number("awk '{ print $4 }' /sys/block/vda/stat");
        guest.run("dd if=/dev/vda of=/dev/null bs=4k count=5 iflag=direct");
        let reads = guest.number("awk '{ print $4 }' /sys/block/vda/stat") - reads;
        guest.run("dd if=/dev/zero of=/dev/vda bs=4k count=5 oflag=direct");
        let writes = guest.number("awk '{ print $8 }' /sys/block/vda/stat");
        assert!(reads >= 1000, "five reads took {reads} ms");
        assert!(writes < 1000, "five writes took {writes} ms");
    });
}

#[test]
fn a_back_end_that_was_away_for_seconds_is_waited_for() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        guest.spawn(&fio(512, "--rw=randwrite --size=32M --iodepth=16"));
        progress(guest, 50);
        backend.crash();
        thread::sleep(Duration::from_secs(5));
        backend.restart();
        guest.join(Duration::from_secs(60));
    });
}

#[test]
fn a_file_system_survives_a_crash_of_the_back_end_while_it_is_written() {
    on_guest(Disk::new(64 * MIB), |guest, backend| {
        guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt");
        guest.spawn("for i in 1 2 3 4 5 6 7 8; do cp /bin/fio /mnt/$i && sync || exit 1; done");
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(150));
            backend.crash();
            backend.restart();
        }
        guest.join(Duration::from_secs(60));
        guest
            .run("echo 3 >/proc/sys/vm/drop_caches; for i in 1 2 3 4 5 6 7 8; do cmp /bin/fio /mnt/$i || exit 1; done");
        guest.run("umount /mnt && e2fsck -fn /dev/vda");
    });
}

#[test]
fn a_guest_that_dies_under_load_leaves_the_disk_to_the_next_one() {
    let backend = Backend::start(Disk::new(32 * MIB));
    for _ in 0..3 {
        let mut guest = Guest::boot(1, Boot::Kernel, &backend, Device::default());
        guest.run(&fio(512, "--rw=randwrite --size=4M --iodepth=16"));
        guest.spawn(&load(32));
        progress(&mut guest, 50);
        // QEMU gets SIGKILL, with requests of the guest on their way.
        drop(guest);
    }
    let mut guest = Guest::boot(1, Boot::Kernel, &backend, Device::default());
    guest.run(&fio(512, "--rw=randwrite --size=16M --iodepth=16"));
    guest.power_off();
    backend.stop();
}
