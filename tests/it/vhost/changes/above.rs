//! Bitmaps along a chain: the transaction that puts an image on top begins one there, as libvirt does. What was changed
//! before is in the one below, what was changed after it in the one on top, whenever the daemon was killed.

use super::{Daemon, GRANULARITY, INCONSISTENT, MIB, bitmaps, restart, run, write};
use crate::vhost::daemon::DISK;

/// `disk` leads to the image on top, which is `first` in the beginning.
const FIRST: &str =
    "qemu-img create -q -f qcow2 first 32M; qemu-img bitmap --add first a; rm -f disk; ln -s first disk";
const SNAPSHOTS: u64 = 3;

fn name(number: u64) -> String {
    if number == 0 { "first".to_owned() } else { format!("over{number}") }
}

/// Opens an image and puts it on top of the node `n`, with a bitmap of its own.
fn snapshot(daemon: &Daemon, number: u64) {
    let (below, above) = (name(number - 1), name(number));
    super::shell(daemon, &format!("qemu-img create -q -f qcow2 -u -F qcow2 -b {below} {above} {DISK}"));
    let mut client = daemon.qmp();
    client.succeed(&format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': '{above}', 'backing': null, \
         'file': {{'driver': 'file', 'filename': 'DIR/{above}'}}}}}}"
    ));
    let on = format!("{{'type': 'blockdev-snapshot', 'data': {{'node': 'n', 'overlay': '{above}'}}}}");
    let bitmap = format!("{{'node': '{above}', 'name': 'a', 'persistent': true}}");
    let with = format!("{{'type': 'block-dirty-bitmap-add', 'data': {bitmap}}}");
    client.succeed(&format!("{{'execute': 'transaction', 'arguments': {{'actions': [{on}, {with}]}}}}"));
}

/// Checks that the bitmap of an image below is in order and marks no less than so many areas.
fn check_below(daemon: &Daemon, image: &str, least: u64) {
    let info = super::shell(daemon, &format!("qemu-img info -U --output json {image}"));
    assert!(info.contains("\"name\": \"a\"") && !info.contains("in-use"), "{image}: {info}");
    let list = super::shell(daemon, &format!("\"$TIDEMARK\" bitmap list -U --output json {image}"));
    let list = qmp_lite::wire::parse(&list).unwrap();
    assert!(list[0]["count"].as_u64().is_some_and(|count| count >= least * GRANULARITY), "{image}: {list}");
}

#[test]
fn a_bitmap_that_began_with_a_snapshot_and_the_one_below_outlive_kills() {
    let options = "driver=qcow2,node-name=n,discard=unmap,file.driver=file,file.filename=disk";
    let mut daemon = Daemon::with_image(options, |place| drop(run(place.path(), FIRST)));
    write(&daemon, &[0]);
    for number in 1..=SNAPSHOTS {
        snapshot(&daemon, number);
        let places: Vec<u64> = (0..=number).map(|place| (9 * number + place) * MIB).collect();
        write(&daemon, &places);
        daemon.kill();
        super::shell(&daemon, &format!("ln -sf {} disk", name(number)));
        restart(&mut daemon);
        let above = bitmaps(&mut daemon.qmp());
        assert!(above.len() == 1 && !above[0].inconsistent && above[0].recording, "{above:?}");
        assert!(above[0].count >= (number + 1) * GRANULARITY, "{above:?}");
        check_below(&daemon, &name(number - 1), number);
    }
    assert!(!daemon.log().contains(INCONSISTENT), "{}", daemon.log());
    daemon.terminate();
    assert!(super::shell(&daemon, "\"$TIDEMARK\" bitmap check disk a").starts_with("valid\n"));
}
