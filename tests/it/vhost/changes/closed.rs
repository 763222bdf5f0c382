//! Ends in order: no journal is left, the bitmaps are exactly what was written, and QEMU takes them.

use super::{GRANULARITY, MIB, PLAIN, RAW, THREE, bitmaps, check_left_in_order, crash, serve, shell, write};
use crate::cli::process::wait_until;
use crate::vhost::daemon::Daemon;

const NAMES: [&str; 3] = ["still", "daily", "weekly"];

/// What a bitmap of the image marks that nobody serves, in bytes.
fn counts(daemon: &Daemon) -> Vec<(String, u64)> {
    let told = shell(daemon, "\"$TIDEMARK\" bitmap list disk --output json");
    let after = |text: &str, name: &str| text.split_once(&format!("\"{name}\": ")).unwrap().1.to_owned();
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let bitmaps = told.split('{').skip(1);
    let name = |text: &str| text.split('"').nth(1).unwrap().to_owned();
    bitmaps.map(|bitmap| (name(&after(bitmap, "name")), number(&after(bitmap, "count")))).collect()
}

/// Ends the daemon in several ways.
fn ends() -> [fn(&mut Daemon); 3] {
    [
        Daemon::terminate,
        |daemon| {
            // It may be gone before it has answered the question that follows.
            let mut client = daemon.qmp();
            client.succeed("{'execute': 'query-version'}");
            client.ask_last("{'execute': 'quit'}");
            wait_until("the end", || !daemon.is_running());
        },
        |daemon| {
            let mut client = daemon.qmp();
            let delete = "{'execute': 'block-export-del', 'arguments': {'id': 'e', 'mode': 'hard'}}";
            client.succeed(delete);
            let delete = "{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}";
            wait_until("the node's end", || client.ask(delete).iter().all(|reply| reply.get("error").is_none()));
        },
    ]
}

#[test]
fn an_end_in_order_leaves_exact_bitmaps_and_no_journal() {
    for make in [PLAIN, RAW] {
        for end in ends() {
            let mut daemon = serve("", &format!("{make}\n{THREE}"));
            assert!(daemon.file("disk.journal").exists(), "while it runs");
            write(&daemon, &[MIB, MIB + 4096, 17 * MIB]);
            end(&mut daemon);
            check_left_in_order(&daemon, &NAMES);
            shell(&daemon, "qemu-img check -q disk");
            let exact = [("still", GRANULARITY), ("daily", 2 * GRANULARITY), ("weekly", 3 * 4096)];
            assert_eq!(counts(&daemon), exact.map(|(name, count)| (name.to_owned(), count)));
            shell(&daemon, "qemu-img bitmap --merge weekly disk daily; qemu-img bitmap --remove disk weekly");
        }
    }
}

#[test]
fn a_bitmap_added_while_there_were_none_is_as_safe_as_one_from_before() {
    let mut daemon = serve("", PLAIN);
    assert!(!daemon.file("disk.journal").exists(), "nothing is recorded");
    let add = "{'execute': 'block-dirty-bitmap-add', 'arguments': {'node': 'n', 'name': 'a', 'persistent': true}}";
    daemon.qmp().succeed(add);
    write(&daemon, &[3 * MIB]);
    crash(&mut daemon);
    let found = bitmaps(&mut daemon.qmp());
    assert!(found[0].count >= GRANULARITY && !found[0].inconsistent, "{found:?}");
    daemon.terminate();
    check_left_in_order(&daemon, &["a"]);
}

#[test]
fn what_is_written_behind_the_old_end_of_a_grown_disk_survives_a_crash() {
    for options in ["", ",x-crash-safe=process"] {
        // Larger than the areas of one sector of the journal, so that it grows, too.
        let mut daemon = serve(options, "qemu-img create -q -f qcow2 disk 3G; qemu-img bitmap --add disk a");
        write(&daemon, &[0]);
        let grow = "{'execute': 'block_resize', 'arguments': {'node-name': 'n', 'size': 9663676416}}";
        daemon.qmp().succeed(grow);
        let places = [8 << 30, (8 << 30) + 700 * MIB];
        write(&daemon, &places);
        crash(&mut daemon);
        let found = bitmaps(&mut daemon.qmp());
        assert!(found[0].count >= 3 * GRANULARITY && !found[0].inconsistent, "{options}: {found:?}");
        assert!(found[0].count < 64 * MIB, "{options}: all of it counts as written to: {found:?}");
        // A full copy, and then what has changed since.
        shell(&daemon, "truncate -s 9663676416 copy");
        super::backup(&mut daemon.qmp(), "copy", "'sync': 'incremental', 'bitmap': 'a'");
        daemon.terminate();
        shell(&daemon, "qemu-img compare -q -f qcow2 -F raw disk copy");
        check_grown(&daemon);
    }
}

fn check_grown(daemon: &Daemon) {
    shell(daemon, "qemu-img check -q disk || test $? -eq 3");
    let info = shell(daemon, "qemu-img info disk");
    assert!(!info.contains("in-use") && info.contains("virtual size: 9 GiB"), "{info}");
    assert!(!daemon.file("disk.journal").exists());
}
