//! `tidemark track`: a raw disk with bitmaps beside it, as QEMU and as our daemon see it.

use super::bitmap::{map, shell, tidemark};
use super::grown::Loop;
use super::process::{Place, QEMU, TIDEMARK};
use crate::vhost::guest::{Guest, range};
use rustix::process::Signal;
use std::fs;
use tidemark_frontend::{DeviceOptions, Status, request_type};

const MIB: u64 = 1 << 20;

/// A place with a disk of 5 MiB of random bytes.
fn place() -> Place {
    let place = Place::new();
    shell(&place, "head -c 5M /dev/urandom > disk; cp disk before");
    place
}

/// The disk is what it was, and QEMU sees it and a sound image with this bitmap.
fn check(place: &Place, disk: &str, meta: &str, bitmap: &str) {
    shell(place, &format!("cmp disk before; qemu-img check -q {meta}; qemu-img compare -f raw -F qcow2 {disk} {meta}"));
    let info = shell(place, &format!("qemu-img info {meta}"));
    for line in ["virtual size: 5 MiB (5242880 bytes)\n", "cluster_size: 2097152\n", "data file raw: true\n", bitmap] {
        assert!(info.contains(line), "{line}: {info}");
    }
    assert!(info.contains(&format!("data file: {disk}\n")), "{info}");
}

/// Writes, zeroes and discards of a guest of the daemon at `blk`. All else of the disk stays.
fn write(place: &Place) {
    let mut guest = Guest::at(&place.file("blk"), DeviceOptions::default());
    assert_eq!(guest.write(MIB, &[7; 4096]), Status::Ok);
    assert_eq!(guest.write(5 * MIB - 512, &[8; 512]), Status::Ok);
    assert_eq!(guest.raw(request_type::DISCARD, 0, &range(2 * MIB / 512, 4096, 0)), Status::Ok);
    assert_eq!(guest.raw(request_type::WRITE_ZEROES, 0, &range(4 * MIB / 512 + 1, 16, 0)), Status::Ok);
    assert_eq!(guest.write(3 * MIB, &[9; 4096]), Status::Ok);
    assert_eq!(guest.read(3 * MIB, 8192), [[9; 4096], [0; 4096]].concat());
}

/// Whether the disk has these writes at the guest's own offsets, and the bitmap marks them and nothing else.
fn check_written(place: &Place, disk: &str, meta: &str) {
    let (mut expected, found) = (fs::read(place.file("before")).unwrap(), fs::read(place.file("disk")).unwrap());
    let mut put = |at: u64, len: usize, byte: u8| {
        let at = usize::try_from(at).unwrap();
        expected[at..at + len].fill(byte);
    };
    put(MIB, 4096, 7);
    put(5 * MIB - 512, 512, 8);
    put(2 * MIB, 2 << 20, 0);
    put(4 * MIB + 512, 8192, 0);
    put(3 * MIB, 4096, 9);
    assert!(found == expected, "the disk is not what the guest has written");
    shell(place, &format!("qemu-img check -q {meta}; qemu-img compare -f raw -F qcow2 {disk} {meta}"));
    // 64 KiB at 1 MiB, the discard, 64 KiB behind it, and the last 64 KiB.
    let marked = shell(place, &format!("{TIDEMARK} bitmap list {meta} --output json"));
    assert!(marked.contains(&format!("\"count\": {},", 3 * 65536 + 2 * MIB)), "{marked}");
}

#[test]
fn a_raw_file_gets_a_bitmap_and_keeps_its_bytes() {
    let place = place();
    tidemark(&place, &["track", "disk", "--bitmap", "daily"]);
    check(&place, "disk", "disk.track.qcow2", "name: daily\n");
    let daemon = place.start(TIDEMARK, &["serve", "disk.track.qcow2", "--format", "qcow2", "--socket", "blk"]);
    place.wait_for_listener("blk");
    write(&place);
    daemon.end(Signal::TERM);
    check_written(&place, "disk", "disk.track.qcow2");
    let dirty = map(&place, "disk.track.qcow2", "daily");
    let block = dirty.lines().find(|line| line.contains("\"start\": 1048576, \"length\": 65536,"));
    assert!(block.is_some_and(|block| block.contains("\"data\": false")), "{dirty}");
}

#[test]
fn a_block_device_gets_a_bitmap_and_keeps_its_bytes() {
    let place = place();
    let device = Loop::attach(&place, &[]);
    let said = place.refusal(&["track", &device.0]);
    assert!(said.contains("is a block device") && said.contains("--meta"), "{said}");
    tidemark(&place, &["track", &device.0, "--meta", "meta", "-g", "64k"]);
    check(&place, &device.0, "meta", "name: backup\n");
    let daemon = place.start(TIDEMARK, &["serve", &device.0, "--meta", "meta", "--socket", "blk"]);
    place.wait_for_listener("blk");
    write(&place);
    let said = place.refusal(&["track", &device.0, "--meta", "other"]);
    assert!(said.contains("Failed to get \"write\" lock"), "{said}");
    daemon.end(Signal::TERM);
    check_written(&place, &device.0, "meta");
}

#[test]
fn a_daemon_of_qemus_opens_it_and_records() {
    let place = place();
    tidemark(&place, &["track", "disk", "-g", "4k"]);
    let export = "vhost-user-blk,id=e,node-name=n,writable=on,addr.type=unix,addr.path=blk";
    let nodes = ["driver=file,node-name=f,filename=disk.track.qcow2", "driver=qcow2,node-name=n,file=f,discard=unmap"];
    let daemon = place.start(QEMU, &["--blockdev", nodes[0], "--blockdev", nodes[1], "--export", export]);
    place.wait_for_listener("blk");
    let mut guest = Guest::at(&place.file("blk"), DeviceOptions::default());
    assert_eq!(guest.write(MIB, &[7; 4096]), Status::Ok);
    drop(guest);
    daemon.end(Signal::TERM);
    let list = tidemark(&place, &["bitmap", "list", "disk.track.qcow2"]);
    assert!(list.contains("backup        4 KiB  4 KiB  recording\n"), "{list}");
    let check = tidemark(&place, &["bitmap", "check", "disk.track.qcow2", "backup"]);
    assert!(check.starts_with("valid\n"), "{check}");
}

/// Serves an image, writes a block and ends the daemon. What it has said.
fn serve_and_write(place: &Place, image: &str) -> String {
    let daemon = place.start(TIDEMARK, &["serve", image, "--format", "qcow2", "--socket", "blk"]);
    place.wait_for_listener("blk");
    let mut guest = Guest::at(&place.file("blk"), DeviceOptions::default());
    assert_eq!(guest.write(0, &[7; 4096]), Status::Ok);
    drop(guest);
    daemon.end(Signal::TERM)
}

#[test]
fn a_copy_of_both_files_is_a_disk_of_its_own_once_its_image_is_told() {
    let place = place();
    tidemark(&place, &["track", "disk"]);
    shell(&place, "mkdir copy; cp --sparse=always disk disk.track.qcow2 copy");
    let list = || tidemark(&place, &["bitmap", "list", "copy/disk.track.qcow2"]);
    assert!(list().contains("inconsistent"), "{}", list());
    tidemark(&place, &["track", "copy/disk", "--adopt"]);
    assert!(list().contains("0 B  recording"), "{}", list());
    serve_and_write(&place, "copy/disk.track.qcow2");
    assert!(fs::read(place.file("copy/disk")).unwrap().starts_with(&[7; 4096]));
    assert!(list().contains("64 KiB  recording"), "{}", list());
    shell(&place, "cmp disk before");
}

#[test]
fn bitmaps_of_a_disk_that_was_written_to_past_its_image_are_not_believed() {
    let place = place();
    tidemark(&place, &["track", "disk"]);
    serve_and_write(&place, "disk.track.qcow2");
    let list = || tidemark(&place, &["bitmap", "list", "disk.track.qcow2"]);
    assert!(list().contains("64 KiB  recording"), "{}", list());
    shell(&place, "printf x | dd of=disk conv=notrunc bs=1 status=none");
    assert!(list().contains("unknown  inconsistent"), "{}", list());
    let said = place.refusal(&["bitmap", "clear", "disk.track.qcow2", "backup"]);
    assert!(said.contains("Bitmap 'backup' is inconsistent and cannot be used"), "{said}");
    shell(&place, "truncate -s 6M disk");
    let said = place.refusal(&["track", "disk", "--adopt"]);
    assert!(said.contains("tracks a disk of 5242880 bytes, and 'disk' has 6291456: it is another disk"), "{said}");
}

#[test]
fn what_is_no_disk_or_has_its_image_is_refused_and_nothing_is_left_behind() {
    let place = place();
    shell(
        &place,
        "qemu-img create -q -f qcow2 image 1M; head -c 1000 disk > odd; : > empty; mkfifo pipe; mkdir dir
         echo > odd.track.qcow2; echo > there; ln -s nowhere link",
    );
    let long = "x".repeat(1024);
    let listed = || shell(&place, "ls -A");
    let before = listed();
    for (arguments, why) in [
        (&["nowhere"][..], "cannot open 'nowhere': No such file or directory"),
        (&["dir"], "'dir' is neither a regular file nor a block device"),
        (&["pipe"], "'pipe' is neither a regular file nor a block device"),
        (&["empty"], "'empty' is too short for a disk: 0 bytes, and a sector has 512"),
        (&["odd"], "'odd' has 1000 bytes, and a disk is made of sectors of 512"),
        (
            &["image"],
            "'image' looks like a qcow2 image, which keeps bitmaps itself: `tidemark bitmap add 'image' NAME`",
        ),
        (&["disk", "--meta", "there"], "'there' exists. If it tracks this disk"),
        (&["disk", "--meta", "link"], "'link' exists."),
        (&["disk", "--meta", "nodir/x"], "cannot open 'nodir': No such file or directory"),
        (&["disk", "--bitmap", ""], "Bitmap name cannot be empty"),
        (&["disk", "--bitmap", &long], "Name length exceeds maximum (1023 characters)"),
        (&["disk", "-g", "100"], "Granularity must be power of 2 and at least 512"),
        (&["disk", "-g", "4G"], "Granularity"),
    ] {
        let said = place.refusal(&[&["track"], arguments].concat());
        assert!(said.contains(why), "{arguments:?}: {said}");
        assert_eq!(listed(), before, "{arguments:?}");
    }
    let _daemon = place.start(TIDEMARK, &["serve", "disk", "--socket", "blk"]);
    place.wait_for_listener("blk");
    let said = place.refusal(&["track", "disk"]);
    assert!(said.contains("Failed to get \"write\" lock\nIs another process using the image [disk]?"), "{said}");
    assert_eq!(listed().replacen("blk\n", "", 1), before);
    shell(&place, "cmp disk before");
}

#[test]
fn a_disk_is_served_with_its_own_image_only() {
    let place = place();
    tidemark(&place, &["track", "disk"]);
    shell(&place, "qemu-img create -q -f qcow2 image 1M; truncate -s 1M other");
    for (disk, meta, why) in [
        ("other", "disk.track.qcow2", "tracks a disk of 5242880 bytes, and 'other' has 1048576"),
        ("disk", "image", "'image': 'data-file' can only be set for images with an external data file"),
        ("disk", "nowhere", "cannot open 'nowhere': No such file or directory"),
    ] {
        let said = place.refusal(&["serve", disk, "--meta", meta, "--socket", "blk"]);
        assert!(said.contains(why), "{said}");
    }
    shell(&place, "qemu-img create -q -f qcow2 -o data_file=apart image 5M");
    let said = place.refusal(&["serve", "disk", "--meta", "image", "--socket", "blk"]);
    assert!(said.contains("'image' does not track a raw disk"), "{said}");
    shell(&place, "cmp disk before");
}

#[test]
fn a_disk_whose_storage_is_full_gets_no_image() {
    let place = place();
    let limited = "trap '' XFSZ; ulimit -f 3000; \"$@\"";
    let output = place.run("bash", &["-c", limited, "bash", TIDEMARK, "track", "disk"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot make 'disk.track.qcow2': File too large"), "{said}");
    assert_eq!(shell(&place, "ls -A"), "before\ndisk\n");
}
