//! What makes a backup full, and that it says so.

use super::vm::{MAKE, QCOW2, RAW, Vm};
use crate::cli::process::{QEMU, TIDEMARK};

/// The bitmap of the newest point.
fn bitmap(vm: &Vm) -> String {
    vm.newest()["bitmap"]["name"].as_str().unwrap().to_owned()
}

fn edit(vm: &Vm, command: &str, name: &str, more: &str) {
    let arguments = format!("{{'node': 'n', 'name': '{name}'{more}}}");
    let command = format!("{{'execute': 'block-dirty-bitmap-{command}', 'arguments': {arguments}}}");
    vm.daemon.second_qmp().succeed(&command);
}

#[test]
fn whatever_makes_the_bitmap_or_the_chain_useless_makes_a_full_backup_that_says_why() {
    type Change = fn(&mut Vm);
    let changes: [(Change, &str); 7] = [
        (|vm| edit(vm, "remove", &bitmap(vm), ""), "does not have bitmap"),
        (|vm| edit(vm, "disable", &bitmap(vm), ""), "does not record"),
        (
            |vm| {
                let name = bitmap(vm);
                edit(vm, "remove", &name, "");
                edit(vm, "add", &name, ", 'granularity': 4096");
            },
            "another granularity",
        ),
        (|vm| drop(vm.shell("mv \"$(ls -t backups/*.qcow2 | head -1)\" away")), "is missing"),
        (
            |vm| drop(vm.shell("qemu-img rebase -u -b '' \"$(ls -t backups/*.qcow2 | head -1)\"")),
            "the image below it is none",
        ),
        (
            |vm| drop(vm.shell("truncate -s 100 \"$(ls -t backups/*.qcow2 | head -1)\"")),
            "chain in the directory is broken",
        ),
        (
            |vm| {
                let resize = "{'execute': 'block_resize', 'arguments': {'node-name': 'n', 'size': 33619968}}";
                vm.daemon.second_qmp().succeed(resize);
            },
            "the disk has 33619968 bytes, and had 33554432",
        ),
    ];
    for (program, node, make) in [(TIDEMARK, QCOW2, MAKE), (QEMU, RAW, "true")] {
        for (change, words) in changes {
            let mut vm = Vm::start((program, node, make), 41);
            for _ in 0..2 {
                vm.work();
                vm.backup();
            }
            change(&mut vm);
            vm.load.drain();
            let said = vm.succeed(&["backup", "qmp", "--to", "backups"]);
            assert!(said.contains("full, because ") && said.contains(words), "{program}: {words}: {said}");
            assert!(vm.newest()["full-because"].as_str().unwrap().contains(words));
            let said = vm.succeed(&["backup", "qmp", "--to", "backups"]);
            assert!(said.contains(", incremental\n"), "{program}: {words}: {said}");
        }
    }
}

#[test]
fn another_disk_of_the_same_name_begins_a_chain_of_its_own() {
    let mut vm = Vm::start((TIDEMARK, QCOW2, MAKE), 43);
    vm.backup();
    vm.daemon.terminate();
    vm.shell("cp disk copy; qemu-img create -q -f qcow2 disk 32M; qemu-io -f qcow2 -c 'write -q -P 3 1M 64k' disk");
    vm.daemon.restart();
    vm.daemon.wait_ready();
    let said = vm.succeed(&["backup", "qmp", "--to", "backups"]);
    assert!(said.contains("full, because the disk does not have bitmap"), "{said}");
    // The one from before comes back: what was recorded for the point of the other disk is not in it.
    vm.daemon.terminate();
    vm.shell("mv copy disk");
    vm.daemon.restart();
    vm.daemon.wait_ready();
    let said = vm.succeed(&["backup", "qmp", "--to", "backups"]);
    assert!(said.contains("full, because the disk does not have bitmap"), "{said}");
}

#[test]
fn a_full_backup_is_made_when_it_is_asked_for() {
    let mut vm = Vm::start((TIDEMARK, RAW, "true"), 47);
    vm.backup();
    let said = vm.succeed(&["backup", "qmp", "--to", "backups", "--full"]);
    assert!(said.contains("full, because --full says so"), "{said}");
}

#[test]
fn two_directories_of_one_disk_know_nothing_of_each_other() {
    let mut vm = Vm::start((TIDEMARK, QCOW2, MAKE), 53);
    for _ in 0..2 {
        vm.backup();
        vm.succeed(&["backup", "qmp", "--to", "other"]);
        vm.work();
        vm.load.drain();
        // One of them is the rig's, which has its own bitmap alone.
        let said = vm.succeed(&["backup", "qmp", "--to", "other"]);
        assert!(said.contains(", incremental\n"), "{said}");
        let nodes = vm.bitmaps(&mut vm.daemon.second_qmp());
        assert_eq!(nodes.len(), 2, "{nodes:?}");
        vm.shell("rm -r other");
        for name in nodes.iter().filter(|name| **name != bitmap(&vm)) {
            edit(&vm, "remove", name, "");
        }
    }
    vm.check_points();
}
