//! What the ring can do is negotiated; the disk has to work with each of it on and off.

use crate::backend::{Disk, MIB};
use crate::guest::{Guest, on_guest, on_guest_with};
use crate::machine::Device;
use crate::verify::fio;

/// VIRTIO_F_INDIRECT_DESC, virtio 1.2 section 6.
const INDIRECT_DESC: usize = 28;
/// VIRTIO_F_EVENT_IDX, virtio 1.2 section 6.
const EVENT_IDX: usize = 29;

/// Whether the guest's driver and the device agreed on a feature bit.
fn negotiated(guest: &mut Guest, bit: usize) -> bool {
    let features = guest.run("cat /sys/block/vda/device/features");
    features.as_bytes().get(bit) == Some(&b'1')
}

fn works_with(indirect_desc: bool, event_idx: bool) {
    let device = Device { indirect_desc, event_idx, ..Device::default() };
    on_guest_with(Disk::new(32 * MIB), device, |guest, _| {
        assert_eq!(negotiated(guest, INDIRECT_DESC), indirect_desc);
        assert_eq!(negotiated(guest, EVENT_IDX), event_idx);
        guest.run(&fio(512, "--rw=randrw --size=16M --iodepth=32"));
    });
}

#[test]
fn the_disk_works_with_indirect_descriptors_and_event_index() {
    works_with(true, true);
}

#[test]
fn the_disk_works_without_indirect_descriptors() {
    works_with(false, true);
}

#[test]
fn the_disk_works_without_event_index() {
    works_with(true, false);
}

#[test]
fn the_disk_works_without_indirect_descriptors_and_event_index() {
    works_with(false, false);
}

#[test]
fn the_guest_sends_flushes_because_a_write_cache_is_reported() {
    on_guest(Disk::new(16 * MIB), |guest, _| {
        assert_eq!(guest.run("cat /sys/block/vda/cache_type").trim(), "write back");
        // Field 16: flush requests completed (the kernel's Documentation/block/stat.rst).
        let flushes = "awk '{ print $16 }' /sys/block/vda/stat";
        let before = guest.number(flushes);
        guest.run("dd if=/dev/urandom of=/dev/vda bs=64k count=4 conv=fsync");
        let after = guest.number(flushes);
        assert!(after > before, "no flush was sent: {before} before, {after} after");
    });
}
