//! A directory in the course of time: full, incremental, pruned, incremental again.

use super::vm::{SERVERS, Vm};

fn kinds(vm: &Vm) -> Vec<bool> {
    vm.points().iter().map(|point| point["disks"][0]["parent"].is_null()).collect()
}

#[test]
fn every_point_is_what_the_guest_had_before_and_after_others_are_pruned() {
    for (seed, server) in (1..).zip(SERVERS) {
        let mut vm = Vm::start(server, seed);
        let said = vm.backup();
        assert!(said.contains("full, because it is the disk's first"), "{server:?}: {said}");
        for _ in 0..3 {
            vm.work();
            let said = vm.backup();
            assert!(said.contains(", incremental\n"), "{server:?}: {said}");
        }
        vm.check_points();
        assert_eq!(kinds(&vm), [true, false, false, false]);
        assert_eq!(vm.succeed(&["backup", "prune", "backups", "--keep", "2"]), "2 points removed, 2 left\n");
        vm.check_clean();
        assert_eq!(kinds(&vm), [true, false]);
        vm.check_points();
        vm.work();
        let said = vm.backup();
        assert!(said.contains(", incremental\n"), "{server:?}: {said}");
        vm.check_points();
        vm.daemon.terminate();
    }
}

#[test]
fn an_incremental_backup_takes_what_was_written_and_not_the_disk() {
    for server in SERVERS {
        let mut vm = Vm::start(server, 7);
        vm.load.within(0..1000);
        vm.load.steps(3000);
        vm.backup();
        let stored = |vm: &Vm, number: u64| -> u64 {
            vm.shell(&format!("du -k backups/n-{number}.qcow2 | cut -f1")).trim().parse().unwrap()
        };
        vm.load.within(0..60);
        vm.load.steps(100);
        vm.backup();
        vm.backup();
        let (full, incremental) = (stored(&vm, 1), stored(&vm, 3));
        let list = vm.succeed(&["backup", "list", "backups"]);
        assert!(incremental * 4 < full, "{server:?}: {list}");
        vm.check_points();
    }
}

#[test]
fn a_directory_goes_on_when_the_daemon_was_closed_in_order_and_started_again() {
    for server in SERVERS.into_iter().filter(|(_, node, _)| *node == super::vm::QCOW2) {
        let mut vm = Vm::start(server, 3);
        vm.backup();
        vm.work();
        vm.load.flush();
        vm.daemon.terminate();
        vm.daemon.restart();
        vm.daemon.wait_ready();
        vm.device.reconnect().unwrap();
        vm.work();
        let said = vm.backup();
        assert!(said.contains(", incremental\n"), "{server:?}: {said}");
        vm.check_points();
    }
}
