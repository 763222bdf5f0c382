//! The disk is there from power-on: the firmware uses it before Linux does.

use crate::backend::{Backend, Disk, MIB};
use crate::guest::Guest;
use crate::image;
use crate::machine::{Boot, Device};
use crate::verify::fio;

#[test]
fn seabios_boots_the_guest_from_the_disk_itself() {
    let backend = Backend::start_on_copy(Disk::new(48 * MIB), &image::file("boot.img"));
    let mut guest = Guest::boot(1, Boot::Disk, &backend, Device::default());
    assert!(guest.output().contains("SYSLINUX"), "the boot loader of the disk did not run");
    guest.run("head -c 512 /dev/vda | grep -q SYSLINUX");
    guest.power_off();
    backend.stop();
}

#[test]
fn a_disk_attached_from_power_on_works_after_the_firmware_let_go_of_it() {
    let backend = Backend::start(Disk::new(32 * MIB));
    let mut guest = Guest::boot(1, Boot::Kernel, &backend, Device::default());
    guest.run(&fio(512, "--rw=randwrite --size=16M --iodepth=16"));
    guest.power_off();
    backend.stop();
}

#[test]
fn the_next_guest_boots_with_what_the_last_one_wrote() {
    let backend = Backend::start(Disk::new(32 * MIB));
    for generation in 0..3 {
        let mut guest = Guest::boot(1, Boot::Kernel, &backend, Device::default());
        if generation > 0 {
            let text = guest.run("head -c 14 /dev/vda");
            assert_eq!(text.trim(), format!("generation {:03}", generation - 1));
        }
        guest.run(&format!("printf 'generation %03d' {generation} | dd of=/dev/vda conv=fsync"));
        guest.power_off();
    }
    backend.stop();
}
