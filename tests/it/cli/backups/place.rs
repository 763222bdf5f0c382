//! Where a directory of backups is: on a file system that is full or cannot be written, or somebody else's. The backup fails
//! with a reason, and the guest does not notice.

use super::vm::{RAW, Vm};
use crate::cli::process::{TIDEMARK, wait_until};
use std::process::Stdio;

/// Makes a backup, which has to fail, while the guest reads and writes all the time; its load looks at how each of them ends.
fn fail_for_want_of_room(vm: &mut Vm) {
    let mut command = vm.program(TIDEMARK);
    command.args(["backup", "qmp", "--to", "backups"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        vm.load.fill();
        vm.load.poll();
    }
    vm.load.drain();
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    for words in ["the copy failed", "No space left on device", "has the points that it had"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(vm.shell("ls -A backups/"), "lock\nmanifest.json\n");
    // The kernel takes its time to let go of a file that a ring had.
    let free = || vm.shell("df --output=avail --block-size=1K small | tail -1").trim().parse::<u64>().unwrap();
    wait_until("the room", || free() > 3 << 10);
}

#[test]
fn a_directory_that_becomes_full_fails_the_backup_and_not_the_guest() {
    let (mut vm, _keeper) = Vm::in_little_room(101);
    for _ in 0..3 {
        vm.work();
    }
    // Whether a guest's write or the backup meets the end of the room first is up to chance.
    for _ in 0..8 {
        fail_for_want_of_room(&mut vm);
    }
    vm.work();
    vm.shell("mount -o remount,size=64m small");
    for _ in 0..2 {
        vm.backup();
        vm.work();
    }
    vm.check_points();
}

#[test]
fn a_backup_that_may_take_more_room_than_there_is_does_not_begin() {
    let (vm, _keeper) = Vm::in_little_room(103);
    vm.shell("dd if=/dev/urandom of=disk bs=1M count=6 conv=notrunc status=none");
    let message = vm.refusal(&["backup", "qmp", "--to", "backups"]);
    for words in ["the backup may take 7.", "has room for ", "`tidemark backup prune`"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(vm.shell("ls -A backups/"), "lock\n");
    assert!(vm.bitmaps(&mut vm.daemon.second_qmp()).is_empty());
    vm.shell("mount -o remount,size=64m small");
    vm.succeed(&["backup", "qmp", "--to", "backups"]);
}

#[test]
fn a_directory_that_cannot_be_written_is_good_for_restoring() {
    let (mut vm, _keeper) = Vm::in_little_room(107);
    vm.shell("mount -o remount,size=64m small");
    vm.backup();
    vm.work();
    vm.shell("mount -o remount,ro small");
    for words in [&["backup", "qmp", "--to", "backups"][..], &["backup", "prune", "backups", "--keep", "1"]] {
        let message = vm.refusal(words);
        assert!(message.contains("Read-only file system") && message.contains("backups'"), "{words:?}: {message}");
    }
    vm.check_points();
    vm.shell("mount -o remount,rw small");
    vm.backup();
    vm.check_points();
}

#[test]
fn a_directory_of_somebody_else_is_named() {
    let mut vm = Vm::start((TIDEMARK, RAW, "true"), 109);
    vm.backup();
    vm.shell("chmod 0 backups");
    for words in [
        &["backup", "qmp", "--to", "backups"][..],
        &["backup", "list", "backups"],
        &["backup", "verify", "backups"],
        &["backup", "prune", "backups", "--keep", "1"],
        &["backup", "restore", "backups", "--to", "restored"],
    ] {
        // Whoever has no privileges in the namespace where the files are.
        let output = vm.program("unshare").args(["--user", TIDEMARK]).args(words).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {message}");
        assert!(message.contains("Permission denied") && message.contains("backups"), "{words:?}: {message}");
    }
    vm.shell("chmod 700 backups");
    vm.check_points();
}
