//! Commands that change bitmaps: when the reply is there, the change is, whatever becomes of the daemon then.

use super::{Bitmap, Daemon, GRANULARITY, INCONSISTENT, MIB, PLAIN, RAW, backup, bitmaps, crash, serve, write};

fn bitmap(command: &str, name: &str, more: &str) -> String {
    format!("{{'execute': 'block-dirty-bitmap-{command}', 'arguments': {{'node': 'n', 'name': '{name}'{more}}}}}")
}

fn merge(target: &str, source: &str) -> String {
    let arguments = format!("{{'node': 'n', 'target': '{target}', 'bitmaps': ['{source}']}}");
    format!("{{'execute': 'block-dirty-bitmap-merge', 'arguments': {arguments}}}")
}

fn transaction(actions: &[(&str, &str)]) -> String {
    let action = |(kind, name): &(&str, &str)| {
        let more = if *kind == "add" { ", 'persistent': true" } else { "" };
        format!("{{'type': 'block-dirty-bitmap-{kind}', 'data': {{'node': 'n', 'name': '{name}'{more}}}}}")
    };
    let actions: Vec<String> = actions.iter().map(action).collect();
    format!("{{'execute': 'transaction', 'arguments': {{'actions': [{}]}}}}", actions.join(", "))
}

/// What the bitmaps have to be after a change.
type Change = fn(&mut Vec<Bitmap>);

fn of<'a>(bitmaps: &'a mut [Bitmap], name: &str) -> &'a mut Bitmap {
    bitmaps.iter_mut().find(|bitmap| bitmap.name == name).unwrap()
}

fn new(name: &str, granularity: u64, recording: bool) -> Bitmap {
    Bitmap { name: name.to_owned(), granularity, recording, inconsistent: false, count: 0 }
}

/// What is found has to be what is expected, or more where it records.
fn check(found: &[Bitmap], expected: &[Bitmap], after: &str) {
    let facts = |bitmap: &Bitmap| (bitmap.name.clone(), bitmap.granularity, bitmap.recording, bitmap.inconsistent);
    let all = |bitmaps: &[Bitmap]| bitmaps.iter().map(facts).collect::<Vec<_>>();
    assert_eq!(all(found), all(expected), "after {after}");
    for (found, expected) in found.iter().zip(expected) {
        let fits = if found.recording { found.count >= expected.count } else { found.count == expected.count };
        assert!(fits, "after {after}: {found:?}, {expected:?}");
    }
}

/// Each request, and what it does to the bitmaps.
fn changes() -> Vec<(String, Change)> {
    let persistent = ", 'persistent': true";
    vec![
        (bitmap("add", "a", persistent), |all| all.push(new("a", GRANULARITY, true))),
        (bitmap("add", "b", ", 'persistent': true, 'disabled': true, 'granularity': 4096"), |all| {
            all.push(new("b", 4096, false));
        }),
        (bitmap("add", "passing", ""), |_| ()),
        (merge("b", "a"), |all| of(all, "b").count = of(all, "a").count),
        (bitmap("enable", "b", ""), |all| of(all, "b").recording = true),
        (merge("a", "b"), |all| {
            let count = of(all, "b").count;
            of(all, "a").count = of(all, "a").count.max(count);
        }),
        (bitmap("disable", "a", ""), |all| of(all, "a").recording = false),
        (bitmap("clear", "a", ""), |all| of(all, "a").count = 0),
        (bitmap("enable", "a", ""), |all| of(all, "a").recording = true),
        (bitmap("clear", "b", ""), |all| of(all, "b").count = 0),
        (transaction(&[("add", "c"), ("clear", "a"), ("disable", "b"), ("disable", "a")]), |all| {
            of(all, "a").count = 0;
            for name in ["a", "b"] {
                of(all, name).recording = false;
            }
            all.push(new("c", GRANULARITY, true));
        }),
        (transaction(&[("clear", "a"), ("remove", "b")]), |all| all.retain(|bitmap| bitmap.name != "b")),
        (bitmap("add", "b", persistent), |all| all.push(new("b", GRANULARITY, true))),
        (bitmap("remove", "a", ""), |all| all.retain(|bitmap| bitmap.name != "a")),
        (bitmap("remove", "c", ""), |all| all.retain(|bitmap| bitmap.name != "c")),
        (bitmap("remove", "b", ""), |all| all.retain(|bitmap| bitmap.name != "b")),
    ]
}

/// A guest writes, the command is given, the daemon is killed as soon as it has answered.
fn all_outlive(mut daemon: Daemon) {
    for ((request, change), place) in changes().into_iter().zip(1..) {
        write(&daemon, &[place * MIB]);
        let mut client = daemon.qmp();
        let mut expected = bitmaps(&mut client);
        expected.retain(|bitmap| bitmap.name != "passing");
        change(&mut expected);
        expected.sort_by(|one, other| one.name.cmp(&other.name));
        client.succeed(&request);
        crash(&mut daemon);
        check(&bitmaps(&mut daemon.qmp()), &expected, &request);
    }
    assert!(!daemon.log().contains(INCONSISTENT), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn what_a_command_has_changed_outlives_a_kill_right_after_its_reply() {
    all_outlive(serve("", PLAIN));
}

#[test]
fn what_a_command_has_changed_outlives_a_kill_where_the_journal_is_in_memory() {
    all_outlive(serve(",x-crash-safe=process", RAW));
}

#[test]
fn what_a_backup_has_left_of_bitmaps_outlives_a_kill_right_after_its_end() {
    let mut daemon = serve("", &format!("{PLAIN}; qemu-img bitmap --add disk a; truncate -s 32M copy"));
    let modes = [
        ("'sync': 'incremental', 'bitmap': 'a'", 0),
        ("'sync': 'bitmap', 'bitmap': 'a', 'bitmap-mode': 'always'", 0),
        ("'sync': 'bitmap', 'bitmap': 'a', 'bitmap-mode': 'never'", 4096),
    ];
    for ((mode, at_least), place) in modes.into_iter().zip(1..) {
        write(&daemon, &[place * MIB, 31 * MIB]);
        backup(&mut daemon.qmp(), "copy", mode);
        crash(&mut daemon);
        let expected = Bitmap { count: at_least, ..new("a", GRANULARITY, true) };
        check(&bitmaps(&mut daemon.qmp()), &[expected], mode);
    }
    daemon.stop();
}
