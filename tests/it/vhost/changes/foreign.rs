//! Whatever happens to an image and its journal between a crash, or a clean end, and the next opening: nothing is
//! believed that is not true, and the log says why.

use std::fs;

use super::{
    Daemon, GRANULARITY, INCONSISTENT, MIB, PLAIN, RAW, backup, bitmaps, bitmaps_of, crash, kill, restart, serve,
    shell, write,
};
use crate::vhost::daemon::DISK;

const ADD: &str = "qemu-img bitmap --add disk a; qemu-img bitmap --add --disable disk off";
/// QEMU writes to the disk.
const BY_QEMU: &str = "qemu-io -f qcow2 -c 'write -q -P 9 9M 64k' disk";
/// The storage daemon of QEMU has it for a while.
const BY_QSD: &str = "printf '%s\\n' '{\"execute\": \"qmp_capabilities\"}' '{\"execute\": \"quit\"}' |
    qemu-storage-daemon --chardev stdio,id=m --monitor m \\
    --blockdev driver=qcow2,node-name=q,file.driver=file,file.filename=disk > told";

/// A daemon that has been killed after a guest wrote to its disk.
fn crashed(options: &str, make: &str) -> Daemon {
    let mut daemon = serve(options, &format!("{make}; {ADD}"));
    write(&daemon, &[MIB, 5 * MIB]);
    kill(&mut daemon);
    daemon
}

/// Whether nobody believes the bitmaps of the daemon that is started now, and what it says of that.
fn check_disbelief(daemon: &mut Daemon, reason: &str) {
    let before = daemon.log().len();
    restart(daemon);
    let found = bitmaps(&mut daemon.qmp());
    assert_eq!(found.len(), 2, "{reason}: {found:?}");
    assert!(found.iter().all(|bitmap| bitmap.inconsistent && !bitmap.recording), "{reason}: {found:?}");
    let log = daemon.log().split_off(before);
    let says = |line: &str| line.contains("WARN") && line.contains(INCONSISTENT) && line.contains(reason);
    assert!(log.lines().any(says), "no line with '{reason}' in {log}");
    // And it stays so, whatever happens then.
    write(daemon, &[2 * MIB]);
    crash(daemon);
    assert!(bitmaps(&mut daemon.qmp()).iter().all(|bitmap| bitmap.inconsistent), "{reason}, one crash later");
    // They can be removed and made anew.
    for request in [
        "'block-dirty-bitmap-remove', 'arguments': {'node': 'n', 'name': 'a'}",
        "'block-dirty-bitmap-add', 'arguments': {'node': 'n', 'name': 'a', 'persistent': true}",
    ] {
        daemon.qmp().succeed(&format!("{{'execute': {request}}}"));
    }
    crash(daemon);
    let found = bitmaps(&mut daemon.qmp());
    let facts: Vec<_> = found.iter().map(|bitmap| (bitmap.name.as_str(), bitmap.inconsistent)).collect();
    assert_eq!(facts, [("a", false), ("off", true)], "{reason}: one made anew");
    daemon.terminate();
}

#[test]
fn bitmaps_of_an_image_that_qemu_has_written_to_after_a_crash_are_inconsistent() {
    for options in ["", ",x-crash-safe=process"] {
        for script in [BY_QEMU, BY_QSD] {
            let mut daemon = crashed(options, PLAIN);
            shell(&daemon, script);
            check_disbelief(&mut daemon, "another program");
        }
    }
}

#[test]
fn an_image_put_back_after_more_was_written_to_it_is_not_taken_for_what_the_journal_is_of() {
    for options in ["", ",x-crash-safe=process"] {
        let mut daemon = crashed(options, PLAIN);
        shell(&daemon, "cp disk away");
        restart(&mut daemon);
        write(&daemon, &[9 * MIB]);
        daemon.terminate();
        shell(&daemon, "cp away disk");
        check_disbelief(&mut daemon, "is not there");
    }
    let mut daemon = crashed("", PLAIN);
    shell(&daemon, "cp disk away");
    restart(&mut daemon);
    write(&daemon, &[9 * MIB]);
    kill(&mut daemon);
    shell(&daemon, "cp away disk");
    check_disbelief(&mut daemon, "of another image or time");
}

#[test]
fn a_journal_that_is_lost_or_damaged_or_of_another_image_says_nothing() {
    let other = "mv disk.journal mine; cp disk.journal.other disk.journal";
    let damage = "dd if=/dev/urandom of=disk.journal bs=512 count=2 conv=notrunc status=none";
    let cases = [
        ("rm disk.journal", "is not there"),
        (damage, "of another image or time"),
        ("truncate -s 0 disk.journal", "of another image or time"),
        (other, "of another image or time"),
    ];
    let another = crashed("", PLAIN);
    for (script, reason) in cases {
        let mut daemon = crashed("", PLAIN);
        fs::copy(another.file("disk.journal"), daemon.file("disk.journal.other")).unwrap();
        shell(&daemon, script);
        check_disbelief(&mut daemon, reason);
    }
}

#[test]
fn what_is_lost_of_a_journal_counts_as_written_to() {
    for script in [
        "truncate -s 1024 disk.journal",
        "dd if=/dev/urandom of=disk.journal bs=512 seek=2 count=2 conv=notrunc status=none",
    ] {
        let mut daemon = crashed("", PLAIN);
        shell(&daemon, script);
        restart(&mut daemon);
        let found = bitmaps(&mut daemon.qmp());
        let counts: Vec<_> = found.iter().map(|bitmap| (bitmap.inconsistent, bitmap.count)).collect();
        assert_eq!(counts, [(false, DISK), (false, 0)], "{script}");
        daemon.terminate();
    }
}

#[test]
fn a_raw_disk_written_to_without_its_image_has_no_bitmaps_to_believe() {
    let behind = "dd if=/dev/urandom of=raw bs=4096 count=1 seek=2500 conv=notrunc status=none";
    for script in [behind, "truncate -s 33M raw; truncate -s 32M raw", "cp raw moved; mv moved raw"] {
        let mut daemon = serve("", &format!("{RAW}; {ADD}"));
        write(&daemon, &[MIB]);
        daemon.terminate();
        shell(&daemon, script);
        check_disbelief(&mut daemon, "the data file was written to");
    }
}

#[test]
fn a_raw_disk_that_nobody_has_touched_has_the_bitmaps_that_it_had() {
    let mut daemon = serve("", &format!("{RAW}; {ADD}; truncate -s 32M copy"));
    for place in 1..4 {
        write(&daemon, &[place * MIB]);
        daemon.terminate();
        shell(&daemon, "qemu-img check -q disk; qemu-io -r -f raw -c 'read -q 0 32M' raw; qemu-img info disk > told");
        restart(&mut daemon);
        let found = bitmaps(&mut daemon.qmp());
        assert_eq!((found[0].count, found[0].inconsistent), (place * GRANULARITY, false), "{found:?}");
    }
    backup(&mut daemon.qmp(), "copy", "'sync': 'incremental', 'bitmap': 'a'");
    shell(&daemon, "cmp raw copy");
    daemon.terminate();
}

#[test]
fn a_crashed_image_is_not_changed_by_looking_at_it() {
    for options in ["", ",x-crash-safe=process"] {
        let mut daemon = crashed(options, PLAIN);
        let files = || shell(&daemon, "sha256sum disk*; stat -c '%n %s %y' disk*");
        let before = files();
        shell(&daemon, "\"$TIDEMARK\" bitmap list disk; \"$TIDEMARK\" info disk; \"$TIDEMARK\" check disk || true");
        let looker = Daemon::with_node("driver=null-co,node-name=n,size=1048576", "");
        let add = format!(
            "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': 'looked', 'read-only': true, \
             'file': {{'driver': 'file', 'filename': '{}'}}}}}}",
            daemon.file("disk").display()
        );
        looker.qmp().succeed(&add);
        let found = bitmaps_of(&mut looker.qmp(), "looked");
        assert!(found.len() == 2 && found.iter().all(|bitmap| bitmap.inconsistent), "{found:?}");
        looker.stop();
        assert_eq!(files(), before);
        // And then goes on as if nobody had.
        restart(&mut daemon);
        let found = bitmaps(&mut daemon.qmp());
        let on = &found[0];
        assert!(!on.inconsistent && on.recording && on.count >= 2 * GRANULARITY, "{found:?}");
        daemon.terminate();
    }
}
