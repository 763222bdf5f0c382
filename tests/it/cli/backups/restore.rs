//! A point in time comes back: as a file of either format, sparse, onto a disk of a daemon.

use super::vm::{MAKE, QCOW2, RAW, SERVERS, Vm};
use crate::cli::grown::Loop;
use crate::cli::process::{Place, TIDEMARK};
use crate::vhost::daemon::DISK;
use std::fs;
use std::os::unix::fs::FileExt as _;

#[test]
fn a_restored_file_has_the_disk_and_takes_no_more_space_than_its_data() {
    let mut vm = Vm::start((TIDEMARK, RAW, "true"), 71);
    vm.backup();
    vm.work();
    vm.backup();
    fs::write(vm.daemon.file("record"), &vm.records[&1]).unwrap();
    for format in ["raw", "qcow2"] {
        let words = ["backup", "restore", "backups", "--point", "1", "--to", "image", "--format", format];
        let said = vm.succeed(&words);
        assert!(said.starts_with("n as of 20") && said.ends_with(", 32 MiB, is in 'image'\n"), "{said}");
        vm.shell(&format!("qemu-img compare -q -f raw -F {format} record image"));
        let [restored, whole] = ["image", "record"]
            .map(|file| -> u64 { vm.shell(&format!("du -k {file} | cut -f1")).trim().parse().unwrap() });
        assert!(restored * 2 < whole, "{format}: {restored} KiB of {whole}");
        let message = vm.refusal(&words);
        assert!(message.contains("'image' exists"), "{message}");
        fs::remove_file(vm.daemon.file("image")).unwrap();
    }
    assert!(!vm.shell("ls -A").contains(".part"));
}

#[test]
fn the_newest_point_is_restored_unless_another_is_named() {
    let mut vm = Vm::start((TIDEMARK, QCOW2, MAKE), 73);
    for _ in 0..2 {
        vm.work();
        vm.backup();
    }
    vm.succeed(&["backup", "restore", "backups", "--to", "newest"]);
    assert!(fs::read(vm.daemon.file("newest")).unwrap() == vm.records[&2]);
    let message = vm.refusal(&["backup", "restore", "backups", "--point", "3", "--to", "x"]);
    assert!(message.contains("there is no point 3; there are 1, 2"), "{message}");
    let message = vm.refusal(&["backup", "restore", "backups", "--disk", "m", "--to", "x"]);
    assert!(message.contains("point 2 has no disk 'm'; it has: n"), "{message}");
    let message = vm.refusal(&["backup", "restore", "backups", "--to", "no/x"]);
    assert!(message.contains("No such file or directory"), "{message}");
}

#[test]
fn a_disk_of_a_daemon_is_what_it_was_and_the_next_backup_knows() {
    for (index, server) in SERVERS.into_iter().enumerate() {
        let mut vm = Vm::start(server, 79 + index as u64);
        for _ in 0..2 {
            vm.work();
            vm.backup();
        }
        vm.work();
        vm.load.drain();
        let words = ["backup", "restore", "backups", "--point", "1", "--to-socket", "qmp", "--node", "n"];
        let said = vm.succeed(&words);
        assert!(said.ends_with("is in 'n'\n"), "{server:?}: {said}");
        vm.succeed(&["backup", "qmp", "--to", "backups"]);
        let now = vm.points().last().unwrap()["number"].as_u64().unwrap();
        assert!(!vm.newest()["parent"].is_null(), "{server:?}: what was restored is a change like any other");
        let then = vm.records[&1].clone();
        vm.records.insert(now, then);
        vm.check_points();
        vm.check_clean();
    }
}

#[test]
fn a_disk_of_another_size_is_not_overwritten() {
    let mut vm = Vm::start((TIDEMARK, RAW, "true"), 83);
    vm.backup();
    vm.daemon.second_qmp().succeed(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 'small', 'size': 1048576}}",
    );
    let words = ["backup", "restore", "backups", "--to-socket", "qmp", "--node", "small"];
    let message = vm.refusal(&words);
    assert!(message.contains("has 1048576 bytes, the one to restore 33554432"), "{message}");
}

#[test]
fn a_block_device_gets_the_disk_and_keeps_what_is_behind_its_end() {
    let mut vm = Vm::start((TIDEMARK, RAW, "true"), 85);
    vm.backup();
    let place = Place::new();
    let behind = vec![9; 1 << 16];
    // What was on it before has to go, zeroes too.
    let old = vec![7; usize::try_from(DISK).unwrap()];
    fs::write(place.file("disk"), [old, behind.clone()].concat()).unwrap();
    let device = Loop::attach(&place, &[]);
    let words = ["backup", "restore", "backups", "--to", &device.0];
    let message = vm.refusal(&[&words[..], &["--format", "qcow2"]].concat());
    assert!(message.contains(&device.0) && message.contains("--format raw"), "{message}");
    let said = vm.succeed(&words);
    assert!(said.ends_with(&format!("is in '{}'\n", device.0)), "{said}");
    let mut now = vec![0; usize::try_from(DISK).unwrap() + behind.len()];
    fs::File::open(&device.0).unwrap().read_exact_at(&mut now, 0).unwrap();
    assert!(now == [&vm.records[&1][..], &behind].concat());
}

#[test]
fn a_block_device_that_is_too_small_is_left_alone() {
    let mut vm = Vm::start((TIDEMARK, RAW, "true"), 87);
    vm.backup();
    let place = Place::new();
    fs::write(place.file("disk"), vec![7; 1 << 20]).unwrap();
    let device = Loop::attach(&place, &[]);
    let message = vm.refusal(&["backup", "restore", "backups", "--to", &device.0]);
    assert!(message.contains(&format!("'{}' has 1048576 bytes, the disk 33554432", device.0)), "{message}");
    assert!(fs::read(place.file("disk")).unwrap() == vec![7; 1 << 20]);
}
