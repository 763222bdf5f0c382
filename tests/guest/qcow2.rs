//! A disk that is a qcow2 image on top of three others: the guest boots from it, writes over what is below, is backed
//! up into another image and gets a larger disk while it writes on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::backend::{Backend, Disk, MIB, NODE, Storage};
use crate::guest::Guest;
use crate::image;
use crate::machine::{Boot, Device};
use crate::restore::file_system_tool;

/// Size of the disk in bytes, before it grows.
const LEN: u64 = 64 * MIB;
/// Afterwards.
const GROWN: u64 = 112 * MIB;
/// Time for anything the guest does beside its load.
const SOON: Duration = Duration::from_secs(60);

/// Files in the file system, each read back, until somebody stops it.
const LOAD: &str = "while [ ! -e /tmp/stop ]; do fio --name=load --directory=/mnt --ioengine=libaio --direct=1 \
     --iodepth=8 --rw=randwrite --bsrange=1k-64k --size=12M --randrepeat=0 --verify=crc32c --verify_fatal=1 \
     --verify_backlog=64 || exit 1; done";

/// Runs a tool of QEMU's; it has to succeed.
fn qemu(program: &'static str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(image::program(program)).args(arguments).current_dir(directory).output();
    let output = output.expect("it ran a moment ago");
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// The images below, from the lowest up; each has something of its own.
struct Chain {
    files: [PathBuf; 3],
    contents: [Vec<u8>; 3],
}

impl Chain {
    /// Makes them beside `top`, and that as well.
    fn make(top: &Path) -> Self {
        let directory = top.parent().expect("an image is in a directory");
        std::fs::copy(image::file("boot.img"), directory.join("lowest.raw")).expect("an image can be copied");
        let make = |name: &str, options: &str, below: &str, format: &str, size: &str| {
            qemu(
                "qemu-img",
                &["create", "-q", "-f", "qcow2", "-o", options, "-b", below, "-F", format, name, size],
                directory,
            );
        };
        make("low.qcow2", "compat=0.10,cluster_size=4k", "lowest.raw", "raw", "48M");
        qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 0x11 47M 1M", "low.qcow2"], directory);
        make("middle.qcow2", "cluster_size=64k,refcount_bits=1", "low.qcow2", "qcow2", "60M");
        qemu(
            "qemu-io",
            &["-f", "qcow2", "-c", "write -P 0x22 50M 1M", "-c", "write -z 47M 4k", "middle.qcow2"],
            directory,
        );
        make("image", "cluster_size=16k", "middle.qcow2", "qcow2", &LEN.to_string());
        let files = ["lowest.raw", "low.qcow2", "middle.qcow2"].map(|name| directory.join(name));
        let contents = files.each_ref().map(|file| std::fs::read(file).expect("an image can be read"));
        Self { files, contents }
    }

    fn assert_untouched(&self) {
        for (file, content) in self.files.iter().zip(&self.contents) {
            assert!(std::fs::read(file).expect("an image can be read") == *content, "{} changed", file.display());
        }
    }
}

/// Asserts that QEMU finds nothing wrong with an image, and that its file system is whole, perhaps after the journal was
/// replayed on a copy.
fn assert_whole(image: &Path, unmounted: bool) {
    let directory = image.parent().expect("an image is in a directory");
    let name = image.file_name().and_then(|name| name.to_str()).expect("names are text");
    let check = qemu("qemu-img", &["check", "-f", "qcow2", name], directory);
    assert!(check.contains("No errors were found on the image."), "{check}");
    let raw = directory.join(format!("{name}.raw"));
    qemu("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", name, raw.to_str().expect("names are text")], directory);
    if !unmounted {
        let (status, text) = file_system_tool("e2fsck", &["-fy", "-E", "no_optimize_extents"], &raw);
        assert!(status <= 1 && text.contains("recovering journal"), "not what a loss of power leaves:\n{text}");
    }
    let (status, text) = file_system_tool("e2fsck", &["-fn"], &raw);
    assert_eq!(status, 0, "{name}:\n{text}");
}

/// Backs the disk up into a new qcow2 image while the guest goes on. Returns the image.
fn back_up(backend: &mut Backend) -> PathBuf {
    let target = backend.place("backup.qcow2");
    let directory = target.parent().expect("an image is in a directory");
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", "backup.qcow2", &LEN.to_string()], directory);
    let mut qmp = backend.qmp();
    let node = format!(
        r#"{{"driver": "qcow2", "node-name": "backup", "file": {{"driver": "file", "filename": "{}"}}}}"#,
        target.display()
    );
    qmp.execute("blockdev-add", &node);
    let job = format!(r#"{{"job-id": "backup", "device": "{NODE}", "target": "backup", "sync": "full"}}"#);
    qmp.execute("blockdev-backup", &job);
    let end = qmp.wait_event(&["\"BLOCK_JOB_COMPLETED\"", "\"backup\""]);
    assert!(!end.contains("\"error\""), "the backup failed: {end}");
    qmp.wait_event(&["\"JOB_STATUS_CHANGE\"", "\"backup\"", "\"null\""]);
    qmp.execute("blockdev-del", r#"{"node-name": "backup"}"#);
    target
}

#[test]
fn a_guest_boots_from_a_chain_of_images_is_backed_up_and_gets_a_larger_disk() {
    let mut chain = None;
    let disk = Disk { storage: Storage::Qcow2, ..Disk::new(LEN) };
    let mut backend = Backend::start_with(disk, |top, _| chain = Some(Chain::make(top)));
    let chain = chain.expect("it was made before the program started");

    let mut guest = Guest::boot(1, Boot::Disk, &backend, Device::default());
    assert!(guest.output().contains("SYSLINUX"), "the boot loader of the disk did not run");
    for (mib, byte) in [(50, r"\x22"), (47, r"\x00"), (61, r"\x00")] {
        guest.run(&format!("dd if=/dev/vda bs=4k skip={} count=1 | tr -d '{byte}' | wc -c | grep -qx 0", mib * 256));
    }
    guest.run(r"dd if=/dev/vda bs=4k skip=12033 count=1 | tr -d '\x11' | wc -c | grep -qx 0");

    guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/b && sync");
    guest.spawn(LOAD);
    guest.until(SOON, "[ -e /mnt/load.0.0 ]");
    let backup = back_up(&mut backend);
    backend.qmp().execute("block_resize", &format!(r#"{{"node-name": "{NODE}", "size": {GROWN}}}"#));
    guest.until(SOON, &format!("[ $(cat /sys/block/vda/size) = {} ]", GROWN / 512));
    guest.run("resize2fs /dev/vda && [ $(df -m /mnt | awk 'NR == 2 { print $2 }') -gt 90 ]");
    guest.run("dd if=/dev/urandom of=/mnt/big bs=1M count=40 conv=fsync && cmp /bin/busybox /mnt/b");
    guest.run("touch /tmp/stop");
    guest.join(SOON);
    guest.run("umount /mnt && e2fsck -fn /dev/vda");
    guest.power_off();
    let (image, kept) = (backend.image(), backend.keep());
    assert_whole(&image, true);
    assert_whole(&backup, false);
    chain.assert_untouched();
    drop(kept);
}
