//! A file system on the disk, used as people use it, and checked by the guest and by the host.

use std::process::Command;

use crate::backend::{Disk, MIB};
use crate::guest::on_guest;
use crate::image;

#[test]
fn ext4_holds_its_files_and_passes_fsck_in_the_guest_and_on_the_host() {
    on_guest(Disk::new(64 * MIB), |guest, backend| {
        guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt");
        guest.run("dd if=/dev/urandom of=/tmp/big bs=1M count=8 && cp /tmp/big /mnt/big");
        guest.run("mkdir /mnt/many; i=0; while [ $i -lt 200 ]; do echo $i >/mnt/many/$i; i=$((i+1)); done");
        guest.run("rm /mnt/many/1??; sync; echo 3 >/proc/sys/vm/drop_caches");
        guest.run("cmp /tmp/big /mnt/big && [ $(cat /mnt/many/42) = 42 ] && rm /tmp/big");
        guest.run("umount /mnt && e2fsck -fn /dev/vda");
        guest.run("mount -t ext4 /dev/vda /mnt && [ $(ls /mnt/many | wc -l) = 100 ] && umount /mnt");
        guest.unplug();

        let check = Command::new(image::program("e2fsck")).arg("-fn").arg(backend.image()).output().unwrap();
        let text = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "the host finds the file system damaged:\n{text}");
    });
}

#[test]
fn an_fsync_in_a_file_system_is_in_the_image_before_it_returns() {
    on_guest(Disk::new(64 * MIB), |guest, backend| {
        guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt");
        guest.run("yes 'a line nobody else writes' | dd of=/mnt/file bs=64k count=4 conv=fsync iflag=fullblock");
        let image = backend.contents(0, 64 << 20);
        let line = b"a line nobody else writes\na line nobody else writes\n";
        assert!(image.windows(line.len()).any(|window| window == line), "the file's data is not in the image");
        guest.run("umount /mnt");
    });
}
