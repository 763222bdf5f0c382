//! Whatever is damaged is found, with its file and its place, and the points that it spoils.

use super::vm::{MAKE, QCOW2, Vm};
use crate::cli::process::TIDEMARK;
use std::fs;

/// Three points of a disk; the second has a block of sevens at 1 MiB.
fn vm() -> Vm {
    let mut vm = Vm::start((TIDEMARK, QCOW2, MAKE), 61);
    vm.load.drain();
    vm.succeed(&["backup", "qmp", "--to", "backups"]);
    for pattern in [7, 8] {
        vm.daemon.terminate();
        let write = format!("write -q -P {pattern} {pattern}M 64k");
        vm.shell(&format!("qemu-io -f qcow2 -c '{write}' disk"));
        vm.daemon.restart();
        vm.daemon.wait_ready();
        vm.succeed(&["backup", "qmp", "--to", "backups"]);
    }
    vm
}

/// What `verify` says, which has to be that something is wrong.
fn found(vm: &Vm, words: &[&str]) {
    let output = vm.tidemark(&["backup", "verify", "backups"]);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    assert!(said.ends_with("are damaged.\n"), "{said}");
}

#[test]
fn a_flipped_bit_is_found_with_its_file_its_place_and_the_points_it_spoils() {
    let vm = vm();
    let file = vm.daemon.file("backups/n-2.qcow2");
    let good = fs::read(&file).unwrap();
    let sevens = good.windows(512).position(|bytes| bytes == [7; 512]).unwrap();
    let mut bad = good.clone();
    bad[sevens + 100] ^= 1;
    fs::write(&file, bad).unwrap();
    let place = format!("65536 bytes at offset {} of the disk", 7 << 20);
    found(&vm, &["n-2.qcow2", &place, "is not what was backed up", "spoiled in points 2, 3", "1 of 3 images"]);
    fs::write(&file, good).unwrap();
    let said = vm.succeed(&["backup", "verify", "backups"]);
    assert_eq!(said, "3 points, 3 images: all data is what was backed up.\n");
}

#[test]
fn data_that_is_gone_or_new_is_found() {
    for (command, words) in [
        ("write -q -z 7M 64k", "is zero and was backed up as data"),
        ("write -q -P 9 20M 64k", "is there and was not backed up"),
        ("write -q -P 9 7M 512", "is not what was backed up"),
    ] {
        let vm = vm();
        vm.shell(&format!("qemu-io -f qcow2 -c '{command}' backups/n-2.qcow2"));
        found(&vm, &["n-2.qcow2", "65536 bytes at offset", words]);
    }
}

#[test]
fn files_that_are_short_missing_or_lead_elsewhere_are_found() {
    let cases = [
        ("rm backups/n-1.qcow2", &["n-1.qcow2' is missing", "spoiled in points 1, 2, 3"][..]),
        ("truncate -s 200000 backups/n-1.qcow2", &["n-1.qcow2"]),
        ("truncate -s 0 backups/n-3.qcow2", &["n-3.qcow2", "spoiled in points 3"]),
        ("qemu-img rebase -u -F qcow2 -b n-1.qcow2 backups/n-3.qcow2", &["is 'n-1.qcow2', and should be 'n-2.qcow2'"]),
        ("cp backups/n-1.qcow2 backups/n-2.qcow2", &["n-2.qcow2", "the image below it is none"]),
        ("rm backups/n-2.sums", &["n-2.sums", "No such file"]),
        ("truncate -s 40 backups/n-2.sums", &["n-2.sums' is damaged"]),
        ("qemu-img create -q -f qcow2 -F qcow2 -b n-1.qcow2 backups/n-2.qcow2 1M", &["n-2.qcow2"]),
    ];
    for (script, words) in cases {
        let vm = vm();
        vm.shell(script);
        found(&vm, words);
    }
}

#[test]
fn nothing_is_pruned_of_a_chain_that_is_broken() {
    for script in ["rm backups/n-2.qcow2", "truncate -s 40 backups/n-2.sums"] {
        let vm = vm();
        vm.shell(script);
        let message = vm.refusal(&["backup", "prune", "backups", "--keep", "1"]);
        assert!(message.contains("nothing is removed") && message.contains("n-2."), "{message}");
        assert_eq!(vm.points().len(), 3, "{script}");
        assert!(vm.daemon.file("backups/n-1.qcow2").exists());
    }
}
