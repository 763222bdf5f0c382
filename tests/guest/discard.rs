//! Discard gives storage back to the host, write-zeroes makes zeros, flush reaches the medium. Judged on
//! the image file, which is where these promises are kept or not.

use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Disk, MIB, Storage};
use crate::guest::{Guest, on_guest};

const PART: usize = 4 << 20;

/// Fills 16 MiB of the disk, so that the host has it all, and returns them as the host sees them.
fn fill(guest: &mut Guest, backend: &Backend) -> Vec<u8> {
    guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=16 oflag=direct conv=fsync");
    assert!(backend.occupied() >= 16 * MIB, "only {} bytes are occupied", backend.occupied());
    backend.contents(0, 4 * PART)
}

/// Asserts that the second of the four parts is zero and all else as it was.
fn assert_second_part_zero(before: &[u8], backend: &Backend) {
    let now = backend.contents(0, before.len());
    assert!(now[..PART] == before[..PART], "data before the range changed");
    assert!(now[PART..2 * PART].iter().all(|&byte| byte == 0), "the range is not zero");
    assert!(now[2 * PART..] == before[2 * PART..], "data after the range changed");
}

#[test]
fn discarded_blocks_become_holes_in_the_image() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        let before = fill(guest, backend);
        let occupied = backend.occupied();
        guest.run("/bin/blkdiscard -o 4M -l 4M /dev/vda");
        assert!(
            backend.occupied() + 4 * MIB <= occupied,
            "{occupied} bytes were occupied, {} still are",
            backend.occupied()
        );
        assert_second_part_zero(&before, backend);
    });
}

#[test]
fn a_discard_of_the_whole_disk_leaves_an_empty_image() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        fill(guest, backend);
        guest.run("/bin/blkdiscard /dev/vda");
        assert!(backend.occupied() < MIB, "{} bytes are still occupied", backend.occupied());
    });
}

#[test]
fn a_mounted_file_system_gives_deleted_files_back_to_the_host() {
    on_guest(Disk::new(64 * MIB), |guest, backend| {
        // Nothing may be left for the kernel to initialize later: that would take storage meanwhile.
        guest.run("mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda");
        guest.run("mount -t ext4 -o discard /dev/vda /mnt");
        guest.run("dd if=/dev/urandom of=/mnt/file bs=1M count=24 && sync");
        let full = backend.occupied();
        guest.run("rm /mnt/file && sync");
        // ext4 sends the discards from a worker, some time after the commit, and drops them on unmount.
        let deadline = Instant::now() + Duration::from_secs(20);
        while full.saturating_sub(backend.occupied()) < 20 * MIB {
            assert!(Instant::now() < deadline, "24 MiB deleted of {full} bytes, {} left", backend.occupied());
            thread::sleep(Duration::from_millis(20));
        }
        guest.run("umount /mnt");
    });
}

#[test]
fn write_zeroes_makes_zeros_and_touches_nothing_else() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        let before = fill(guest, backend);
        guest.run("/bin/blkdiscard -z -o 4M -l 4M /dev/vda");
        assert_second_part_zero(&before, backend);
        guest.run("dd if=/dev/vda bs=1M skip=4 count=4 iflag=direct | cmp -n 4194304 - /dev/zero");
    });
}

#[test]
fn an_fsync_that_fails_on_the_host_fails_in_the_guest() {
    on_guest(Disk { storage: Storage::FailingFlush, ..Disk::new(16 * MIB) }, |guest, _| {
        // Says nothing new where the device reports its write cache already.
        guest.run("echo 'write back' >/sys/block/vda/cache_type");
        guest.forgive("I/O error");
        guest.run("dd if=/dev/urandom of=/dev/vda bs=64k count=1 oflag=direct");
        guest.fails("dd if=/dev/urandom of=/dev/vda bs=64k count=1 conv=fsync");
        guest.run("dd if=/dev/vda of=/dev/null bs=64k count=1 iflag=direct");
    });
}
