//! QEMU's own points in time for readers: a `copy-before-write` filter that the guest uses and a `snapshot-access` node over
//! it, exported. Both daemons answer the same.

use std::fs::File;

use super::{MIB, NEW, OLD, io, output, run};
use crate::cli::process::QEMU;
use crate::qmp::daemon::{Client, Daemon, TIDEMARK};

/// What is asked of the exports `guest` and `past`, in this order.
const ASKED: [(&str, &str); 12] = [
    ("guest", "write -P 0x33 0 256k"),
    ("past", "read -P 0x11 0 1M"),
    ("guest", "read -P 0x33 0 256k"),
    ("past", "write -P 0x44 0 64k"),
    ("past", "write -z 0 64k"),
    ("past", "discard 64k 64k"),
    ("past", "read 64k 64k"),
    ("past", "read -P 0x11 128k 896k"),
    ("past", "discard 512k 128k"),
    ("guest", "write -P 0x33 512k 256k"),
    ("past", "read -P 0x11 640k 384k"),
    ("past", "read 512k 64k"),
];

fn play(program: &'static str, writable: bool) -> Vec<String> {
    let mut daemon = Daemon::start(program, &[]);
    for name in ["d", "t"] {
        File::create(daemon.dir().join(name)).unwrap().set_len(MIB).unwrap();
    }
    std::fs::write(daemon.dir().join("d"), vec![OLD; 1 << 20]).unwrap();
    let mut client: Client = daemon.negotiate();
    let filter = "'driver': 'copy-before-write', 'node-name': 'c', 'file': 'd', 'target': 't'";
    for (command, arguments) in [
        ("blockdev-add", "'driver': 'file', 'node-name': 'd', 'filename': 'DIR/d', 'discard': 'unmap'"),
        ("blockdev-add", "'driver': 'file', 'node-name': 't', 'filename': 'DIR/t', 'discard': 'unmap'"),
        ("blockdev-add", filter),
        ("blockdev-add", "'driver': 'snapshot-access', 'node-name': 's', 'file': 'c', 'discard': 'unmap'"),
        ("nbd-server-start", "'addr': {'type': 'unix', 'data': {'path': 'DIR/nbd'}}"),
        ("block-export-add", "'type': 'nbd', 'id': 'g', 'node-name': 'c', 'name': 'guest', 'writable': true"),
        (
            "block-export-add",
            &format!("'type': 'nbd', 'id': 'p', 'node-name': 's', 'name': 'past', 'writable': {writable}"),
        ),
    ] {
        client.succeed(&run(command, arguments));
    }
    let mut came: Vec<String> = ASKED
        .iter()
        .map(|(export, asked)| format!("{export}: {asked}: {:?}", io(daemon.dir(), export, asked).map(drop)))
        .collect();
    let map = output(daemon.dir(), "qemu-img", &["map", "--output=json", "--image-opts"], "past");
    came.push(format!("{map:?}"));
    let copied = std::fs::read(daemon.dir().join("t")).unwrap();
    came.push(format!("{} bytes copied", copied.iter().filter(|byte| **byte == OLD).count()));
    assert!(!copied.contains(&NEW));
    came
}

#[test]
fn an_export_over_snapshot_access_is_the_past_until_it_is_discarded() {
    for writable in [true, false] {
        let [theirs, ours] = [QEMU, TIDEMARK].map(|program| play(program, writable));
        assert_eq!(ours, theirs, "writable: {writable}");
        assert_eq!(ours[1], "past: read -P 0x11 0 1M: Ok(())");
    }
}
