//! What the disk says of itself: size, block size, read-only, serial number; and that Linux's driver may
//! let go of it and take it again.

use std::fs;

use crate::backend::{Disk, EXPORT, MIB};
use crate::guest::on_guest;
use crate::verify::fio;

#[test]
fn the_guest_sees_the_size_of_the_image() {
    on_guest(Disk::new(17 * MIB), |guest, _| {
        assert_eq!(guest.number("cat /sys/block/vda/size") * 512, 17 * MIB);
    });
}

#[test]
fn the_serial_number_is_the_id_of_the_export() {
    on_guest(Disk::new(16 * MIB), |guest, _| {
        assert_eq!(guest.run("cat /sys/block/vda/serial").trim(), EXPORT);
    });
}

#[test]
fn a_serial_number_that_was_given_is_the_one_the_guest_sees() {
    let disk = Disk { serial: Some("TIDE-0123456789-abcd"), ..Disk::new(16 * MIB) };
    on_guest(disk, |guest, _| {
        assert_eq!(guest.run("cat /sys/block/vda/serial").trim(), "TIDE-0123456789-abcd");
    });
}

#[test]
fn a_read_only_disk_can_be_read_and_not_written() {
    on_guest(Disk { writable: false, ..Disk::new(16 * MIB) }, |guest, backend| {
        assert_eq!(guest.number("cat /sys/block/vda/ro"), 1);
        guest.run("dd if=/dev/vda bs=1M count=16 iflag=direct | cmp -n 16777216 - /dev/zero");
        guest.fails("dd if=/dev/urandom of=/dev/vda bs=64k count=1 oflag=direct");
        guest.fails("/bin/blkdiscard /dev/vda");
        guest.fails("/bin/blkdiscard -z /dev/vda");
        assert!(fs::read(backend.image()).unwrap().iter().all(|&byte| byte == 0), "the image was written");
    });
}

#[test]
fn a_disk_of_4096_byte_blocks_is_one_to_the_guest_and_works() {
    on_guest(Disk { logical_block_size: 4096, ..Disk::new(64 * MIB) }, |guest, _| {
        assert_eq!(guest.number("cat /sys/block/vda/queue/logical_block_size"), 4096);
        assert_eq!(guest.number("cat /sys/block/vda/size") * 512, 64 * MIB);
        guest.fails("fio --name=small --filename=/dev/vda --direct=1 --rw=read --bs=512 --size=4096");
        guest.run(&fio(4096, "--rw=randwrite --size=16M --iodepth=16"));
        guest.run("/bin/blkdiscard -o 4096 -l 8192 /dev/vda && /bin/blkdiscard -z -o 4096 -l 8192 /dev/vda");
        guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/b");
        guest.run("sync; echo 3 >/proc/sys/vm/drop_caches; cmp /bin/busybox /mnt/b");
        guest.run("umount /mnt && e2fsck -fn /dev/vda");
    });
}

#[test]
fn the_driver_can_be_unbound_and_bound_again() {
    on_guest(Disk::new(32 * MIB), |guest, _| {
        guest.run("basename $(readlink -f /sys/block/vda/device) >/tmp/device");
        guest.run("dd if=/dev/urandom of=/tmp/data bs=1M count=4 && dd if=/tmp/data of=/dev/vda bs=1M oflag=direct");
        for _ in 0..5 {
            guest.run("cat /tmp/device >/sys/bus/virtio/drivers/virtio_blk/unbind && [ ! -e /sys/block/vda ]");
            guest.run("cat /tmp/device >/sys/bus/virtio/drivers/virtio_blk/bind && [ -e /sys/block/vda ]");
            guest.run("dd if=/dev/vda bs=1M count=4 iflag=direct | cmp - /tmp/data");
        }
        guest.run("rm /tmp/data");
        guest.run(&fio(512, "--rw=randwrite --size=8M --iodepth=16"));
    });
}
