//! A disk served as people serve it, without options: 64 queues are on offer, and any guest boots.

use crate::backend::{Backend, MIB};
use crate::guest::Guest;
use crate::machine::{Boot, Device};
use crate::verify::fio;

/// Boots a guest with `vcpus` virtual CPUs and a device of `queues` queues on a disk that offers 64.
fn boots_and_works(vcpus: u8, queues: Option<u16>) {
    let backend = Backend::serve(64 * MIB);
    let mut guest = Guest::boot(vcpus, Boot::Kernel, &backend, Device { queues, ..Device::default() });
    // Linux's driver uses as many queues as it has CPUs.
    assert_eq!(guest.run("ls /sys/block/vda/mq | wc -l").trim(), vcpus.to_string());
    guest.run(&fio(512, "--rw=randwrite --numjobs=2 --size=8M --offset_increment=16M --iodepth=16"));
    guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/b");
    guest.run("umount /mnt && e2fsck -fn /dev/vda");
    guest.power_off();
    backend.stop();
}

#[test]
fn a_guest_with_one_cpu_boots_and_works() {
    boots_and_works(1, None);
}

#[test]
fn a_guest_with_two_cpus_boots_and_works() {
    boots_and_works(2, None);
}

#[test]
fn a_device_with_all_64_queues_works_though_the_guest_starts_only_two() {
    boots_and_works(2, Some(64));
}
