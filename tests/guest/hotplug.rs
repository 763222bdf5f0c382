//! The disk comes and goes while the guest runs, and the back-end is ready for the next time.

use crate::backend::{Disk, MIB};
use crate::guest::on_guest;
use crate::machine::Device;
use crate::verify::fio;

#[test]
fn a_disk_taken_out_and_put_in_again_holds_its_data() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        guest.run("dd if=/dev/urandom of=/tmp/data bs=1M count=4");
        guest.run("dd if=/tmp/data of=/dev/vda bs=1M oflag=direct");
        for _ in 0..5 {
            guest.unplug();
            guest.plug(backend, Device::default());
            guest.run("dd if=/dev/vda bs=1M count=4 iflag=direct | cmp - /tmp/data");
        }
        guest.run("rm /tmp/data");
        guest.run(&fio(512, "--rw=randwrite --size=8M --iodepth=16"));
    });
}

#[test]
fn a_disk_taken_out_under_load_works_when_it_is_put_in_again() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        // Requests that were never sent fail in the guest: the disk is gone.
        guest.forgive("I/O error");
        guest.spawn(
            "fio --name=load --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randrw \
                     --size=32M --iodepth=32 --time_based --runtime=60",
        );
        guest.until(std::time::Duration::from_secs(20), "[ $(awk '{ print $5 }' /sys/block/vda/stat) -gt 100 ]");
        guest.unplug();
        guest.until(std::time::Duration::from_secs(20), "[ -s /tmp/status ]");
        guest.plug(backend, Device::default());
        guest.run(&fio(512, "--rw=randwrite --size=16M --iodepth=16"));
    });
}

#[test]
fn the_same_disk_comes_back_with_other_features() {
    on_guest(Disk::new(32 * MIB), |guest, backend| {
        for (indirect_desc, event_idx) in [(false, false), (true, true), (false, true), (true, false)] {
            guest.unplug();
            guest.plug(backend, Device { indirect_desc, event_idx, ..Device::default() });
            guest.run(&fio(512, "--rw=randwrite --size=4M --iodepth=16"));
        }
    });
}
