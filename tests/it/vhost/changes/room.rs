//! File systems without room: for the bitmaps when the image is closed, and for the journal while a guest writes.

use std::fs;
use std::process::Command;

use tidemark_frontend::{DeviceOptions, Status};

use super::places::on_device;
use super::{Daemon, GRANULARITY, INCONSISTENT, MIB, PLAIN, bitmaps, crash, restart, run, write};
use crate::cli::process::{Running, wait_until};
use crate::cli::small::{INSIDE, inside, mount};
use crate::vhost::guest::Guest;

/// A daemon, its image made by a script in the small file system.
fn serve(node: &str, make: &str) -> (Daemon, std::path::PathBuf, Running) {
    let mut made = None;
    let daemon = Daemon::started_by(INSIDE, node, |place| {
        let keeper = mount(place);
        let small = inside(&keeper, place);
        run(&small, make);
        made = Some((small, keeper));
    });
    let (small, keeper) = made.unwrap();
    (daemon, small, keeper)
}

const FILL: &str = "! dd if=/dev/zero of=filler bs=4096 2> /dev/null";

#[test]
fn bitmaps_that_cannot_be_stored_at_the_end_are_stored_by_the_next_daemon() {
    let node = "driver=qcow2,node-name=n,file.driver=file,file.filename=small/disk";
    let make = "qemu-img create -q -f qcow2 -o cluster_size=4k disk 32M; qemu-img bitmap --add disk a";
    let (mut daemon, small, _keeper) = serve(node, make);
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.write(MIB, &[7; 4096]), Status::Ok);
    assert_eq!(guest.run(&tidemark_frontend::Request::Flush), Status::Ok);
    drop(guest);
    run(&small, FILL);
    rustix::process::kill_process(daemon.pid(), rustix::process::Signal::TERM).unwrap();
    wait_until("the end of the daemon", || !daemon.is_running());
    let log = daemon.log();
    let loud =
        |line: &str| line.contains("ERROR") && line.contains("could not be stored") && line.contains("journal stays");
    assert!(log.lines().any(loud), "{log}");
    assert!(small.join("disk.journal").exists(), "{log}");
    assert!(run(&small, "qemu-img info -U disk").contains("in-use"), "nothing is claimed");
    run(&small, "rm filler");
    restart(&mut daemon);
    let found = bitmaps(&mut daemon.qmp());
    assert!(!found[0].inconsistent && found[0].recording && found[0].count >= GRANULARITY, "{found:?}");
    daemon.terminate();
    assert!(!run(&small, "qemu-img check -q disk; qemu-img info disk").contains("in-use"));
    assert!(!small.join("disk.journal").exists());
}

/// A daemon whose journal is in the small file system, without room from the next write to the journal on.
fn without_room_for_the_journal() -> (Daemon, std::path::PathBuf, Running) {
    let node = "driver=qcow2,node-name=n,file.driver=file,file.filename=disk,x-journal=small/journal";
    let make = "qemu-img create -q -f qcow2 ../disk 32M; qemu-img bitmap --add ../disk a";
    let (daemon, small, keeper) = serve(node, make);
    write(&daemon, &[MIB]);
    let room = fs::File::options().write(true).open(small.join("journal")).unwrap();
    room.set_len(0).unwrap();
    run(&small, FILL);
    (daemon, small, keeper)
}

/// The guest goes on, and somebody is told once.
fn check_loss(daemon: &Daemon) {
    let mut client = daemon.qmp();
    let mut guest = Guest::with(daemon, DeviceOptions::default());
    for place in 8..12 {
        assert_eq!(guest.write(place * MIB, &[8; 4096]), Status::Ok, "{place} MiB");
        assert_eq!(guest.read(place * MIB, 4096), [8; 4096]);
    }
    client.succeed("{'execute': 'query-version'}");
    let lost: Vec<_> = client.events().iter().filter(|event| event["event"] == "X_CHANGE_JOURNAL_LOST").collect();
    assert_eq!(lost.len(), 1, "{:?}", client.events());
    assert_eq!(lost[0]["data"]["node-name"], "n");
    assert_eq!(lost[0]["data"]["reason"], "No space left on device");
    daemon.wait_logged("is given up", 1);
}

#[test]
fn a_guest_goes_on_without_a_journal_that_cannot_be_written_and_an_end_in_order_stores_what_is_right() {
    let (mut daemon, small, _keeper) = without_room_for_the_journal();
    check_loss(&daemon);
    let before = bitmaps(&mut daemon.qmp());
    assert!(before[0].recording && !before[0].inconsistent && before[0].count == 5 * GRANULARITY, "{before:?}");
    daemon.terminate();
    run(&small, "qemu-img check -q ../disk; rm filler");
    restart(&mut daemon);
    assert_eq!(bitmaps(&mut daemon.qmp()), before, "exact after an end in order");
    daemon.terminate();
}

#[test]
fn a_journal_that_was_given_up_is_not_believed_though_it_can_be_read() {
    let (mut daemon, _device) = on_device(",x-journal=journal", PLAIN);
    let mut guest = Guest::new(&daemon);
    assert_eq!(guest.write(MIB, &[7; 4096]), Status::Ok);
    // Its heads may be written to, and nothing behind them; the image is on a block device.
    let pid = daemon.pid().as_raw_nonzero().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--fsize=1024:1024"]).status().unwrap();
    assert!(limited.success());
    let mut client = daemon.qmp();
    assert_eq!(guest.write(20 * MIB, &[8; 4096]), Status::Ok);
    client.succeed("{'execute': 'query-version'}");
    assert!(client.events().iter().any(|event| event["event"] == "X_CHANGE_JOURNAL_LOST"), "{:?}", client.events());
    crash(&mut daemon);
    let found = bitmaps(&mut daemon.qmp());
    assert!(found[0].inconsistent, "{found:?}");
    daemon.stop();
}

#[test]
fn a_crash_after_its_journal_was_given_up_makes_a_bitmap_inconsistent() {
    let (mut daemon, small, _keeper) = without_room_for_the_journal();
    check_loss(&daemon);
    daemon.kill();
    run(&small, "rm filler");
    let before = daemon.log().len();
    restart(&mut daemon);
    let found = bitmaps(&mut daemon.qmp());
    assert!(found[0].inconsistent, "{found:?}");
    let log = daemon.log().split_off(before);
    assert!(log.lines().any(|line| line.contains(INCONSISTENT)), "{log}");
    daemon.terminate();
}
