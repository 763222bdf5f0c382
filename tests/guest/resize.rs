//! The disk grows while the guest runs.

use std::time::Duration;

use crate::backend::{Backend, Disk, MIB, NODE};
use crate::guest::{Guest, on_guest};
use crate::machine::{Boot, Device};
use crate::verify::fio;

/// The guest has to know the new size within this time.
const SOON: Duration = Duration::from_secs(1);

/// Resizes the disk to `len` bytes and asserts that the guest notices.
fn resize(guest: &mut Guest, backend: &mut Backend, len: u64) {
    backend.qmp().execute("block_resize", &format!(r#"{{"node-name": "{NODE}", "size": {len}}}"#));
    guest.until(SOON, &format!("[ $(cat /sys/block/vda/size) = {} ]", len / 512));
}

#[test]
fn a_mounted_file_system_grows_with_the_disk() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/b");
        resize(guest, backend, 96 * MIB);
        guest.run("resize2fs /dev/vda");
        guest.run("[ $(df -m /mnt | awk 'NR == 2 { print $2 }') -gt 70 ]");
        guest.run("dd if=/dev/urandom of=/mnt/big bs=1M count=48 conv=fsync && cmp /bin/busybox /mnt/b");
        guest.run("umount /mnt && e2fsck -fn /dev/vda");
    });
}

#[test]
fn the_disk_grows_under_load_and_the_new_part_works() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        guest.spawn(&fio(512, "--rw=randwrite --size=32M --iodepth=16"));
        for step in 1..=4 {
            resize(guest, backend, (32 + 16 * step) * MIB);
        }
        guest.join(Duration::from_secs(60));
        guest.run(&fio(512, "--rw=randwrite --offset=32M --size=32M --iodepth=16"));
    });
}

#[test]
fn a_disk_that_was_there_from_power_on_grows_too() {
    let mut backend = Backend::start(Disk { queues: 2, ..Disk::new(32 * MIB) });
    let mut guest = Guest::boot(2, Boot::Kernel, &backend, Device::default());
    resize(&mut guest, &mut backend, 64 * MIB);
    guest.run(&fio(512, "--rw=randwrite --offset=40M --size=16M --iodepth=16"));
    guest.power_off();
    backend.stop();
}
