//! Points in time that NBD servers show, of whatever make: all of a disk, and what a bitmap marks.

use crate::cli::process::{Place, QEMU, Running, TIDEMARK};
use std::process::Command;

/// Bytes of the disk.
const SIZE: u64 = 8 << 20;

fn shell(place: &Place, script: &str) -> String {
    let output = Command::new("bash").args(["-ec", script]).current_dir(place.path()).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A server that shows the image `disk` and its bitmap `b`.
fn serve(place: &Place, program: &str) -> Running {
    let export = "nbd,id=e,node-name=n,name=vm,bitmaps.0=b";
    let node = "driver=qcow2,node-name=n,read-only=on,file.driver=file,file.filename=disk";
    let server =
        place.start(program, &["--blockdev", node, "--nbd-server", "addr.type=unix,addr.path=nbd", "--export", export]);
    place.wait_for_listener("nbd");
    server
}

fn backup(place: &Place, words: &[&str]) -> String {
    let uri = "nbd+unix:///vm?socket=nbd";
    let output = place.run(TIDEMARK, &[&["backup", "--nbd", uri, "--to", "dir"], words].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn image(place: &Place) {
    std::fs::remove_file(place.file("disk")).unwrap();
    shell(place, &format!("qemu-img create -q -f qcow2 disk {SIZE}"));
    shell(place, "qemu-io -f qcow2 -c 'write -q -P 1 0 3M' -c 'write -q -P 2 5M 1000k' disk");
    shell(place, "qemu-img bitmap --add -g 4096 disk b");
}

#[test]
fn a_disk_is_read_whole_and_then_what_its_bitmap_marks() {
    for program in [TIDEMARK, QEMU] {
        let place = Place::new();
        image(&place);
        let server = serve(&place, program);
        let said = backup(&place, &[]);
        assert!(said.contains("  vm: ") && said.contains("full, because no --bitmap says"), "{program}: {said}");
        drop(server);
        shell(
            &place,
            "cp disk first; qemu-io -f qcow2 -c 'write -q -P 7 1000k 6k' -c 'write -q -z 2M 192k' \
                       -c 'write -q -P 9 8188k 4k' disk",
        );
        let server = serve(&place, program);
        let said = backup(&place, &["--bitmap", "b", "--since", "1"]);
        assert!(said.contains(", incremental\n"), "{program}: {said}");
        drop(server);
        let space = shell(&place, "du -k dir/vm-2.qcow2 | cut -f1");
        assert!(space.trim().parse::<u64>().unwrap() < 1000, "{program}: {space}");
        shell(&place, "qemu-img compare -q -U first dir/vm-1.qcow2; qemu-img compare -q -U disk dir/vm-2.qcow2");
        for point in ["1", "2"] {
            let output = place.run(TIDEMARK, &["backup", "restore", "dir", "--point", point, "--to", point]);
            assert!(output.status.success(), "{output:?}");
        }
        shell(&place, "qemu-img compare -q -U -F raw first 1; qemu-img compare -q -U -F raw disk 2");
        shell(
            &place,
            &format!(
                "{TIDEMARK} backup verify dir; {TIDEMARK} backup prune dir --keep 1; {TIDEMARK} backup verify dir"
            ),
        );
        shell(&place, "qemu-img compare -q -U disk dir/vm-2.qcow2");
    }
}

#[test]
fn a_bitmap_that_records_since_another_point_or_is_not_there_is_refused() {
    let place = Place::new();
    image(&place);
    let _server = serve(&place, TIDEMARK);
    let refusal = |words: &[&str]| {
        place.refusal(&[&["backup", "--nbd", "nbd+unix:///vm?socket=nbd", "--to", "dir"], words].concat())
    };
    let message = refusal(&["--bitmap", "b", "--since", "1"]);
    assert!(message.contains("there is no point of disk 'vm'"), "{message}");
    backup(&place, &[]);
    backup(&place, &[]);
    let message = refusal(&["--bitmap", "b", "--since", "1"]);
    assert!(message.contains("the newest point of disk 'vm' is 2"), "{message}");
    let message = refusal(&["--bitmap", "c", "--since", "2"]);
    assert!(
        message.contains("the server does not have this bitmap") || message.contains("qemu:dirty-bitmap:c"),
        "{message}"
    );
    let message = refusal(&["--bitmap", "b"]);
    assert!(message.contains("--since"), "{message}");
    let missing = ["backup", "--nbd", "nbd+unix:///other?socket=nbd", "--to", "dir"];
    let message = place.refusal(&missing);
    assert!(message.contains("nbd+unix:///other"), "{message}");
    let message = place.refusal(&["backup", "--nbd", "nbd+unix:///vm?socket=nobody", "--to", "dir"]);
    assert!(message.contains("nobody"), "{message}");
    let mut files: Vec<_> =
        std::fs::read_dir(place.file("dir")).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["lock", "manifest.json", "vm-1.qcow2", "vm-1.sums", "vm-2.qcow2", "vm-2.sums"]);
}
