//! Images that are found to be corrupt while a guest uses them, beside `qemu-storage-daemon`: the same requests fail, the
//! same event tells why, and the image is marked. What is left of the disk is where ours differs: decision 17.

use std::fs;
use std::process::Command;

use qmp_lite::wire::Value;
use tidemark_frontend::{DeviceOptions, Request, Status};

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, differs};
use crate::vhost::guest::Guest;

const CLUSTER: u64 = 65536;
/// Where QEMU puts what, in clusters of 64 KiB.
const REFTABLE: usize = 0x1_0000;
const REFBLOCK: usize = 0x2_0000;
const L1: usize = 0x3_0000;
const L2: usize = 0x4_0000;
/// "May be written in place".
const COPIED: u64 = 1 << 63;

#[derive(Clone, Copy, Debug)]
enum Does {
    Reads,
    Writes,
    Discards,
    /// Writes where there is nothing yet.
    Allocates,
}

/// Bytes that are changed, and the request that finds it.
struct Case {
    version: &'static str,
    at: usize,
    bytes: Vec<u8>,
    does: Does,
}

fn entry(at: usize, value: u64, does: Does) -> Case {
    Case { version: "1.1", at, bytes: value.to_be_bytes().to_vec(), does }
}

/// A cluster that is not counted.
fn free(cluster: usize) -> Case {
    Case { version: "1.1", at: REFBLOCK + 2 * cluster, bytes: vec![0, 0], does: Does::Allocates }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        entry(L2 + 8, COPIED | 0x5_0200, Does::Reads),
        entry(L2 + 8, COPIED | 0x5_0200, Does::Writes),
        entry(L2 + 8, COPIED | 0x5_0200, Does::Discards),
        Case { version: "0.10", ..entry(L2 + 8, 1, Does::Reads) },
        entry(L1, COPIED | 0x4_0200, Does::Reads),
        entry(L1, COPIED | 0x4_0200, Does::Writes),
        entry(REFTABLE, 0x2_0200, Does::Allocates),
    ];
    let tables = [REFTABLE, REFBLOCK, L1, L2];
    cases.extend(tables.map(|table| entry(L2 + 8, COPIED | table as u64, Does::Writes)));
    cases.extend([0, 2, 4].map(free));
    cases
}

/// The daemon with the image as node `n`, exported.
fn start(program: &str, case: &Case) -> (Daemon, Client, Guest) {
    let mut daemon = Daemon::start(program, &[]);
    let path = daemon.dir().join("broken");
    let name = path.to_str().unwrap();
    let compat = format!("compat={}", case.version);
    for arguments in [
        &["qemu-img", "create", "-q", "-f", "qcow2", "-o", &compat, name, "16M"][..],
        &["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 256k", name],
    ] {
        let output = Command::new(arguments[0]).args(&arguments[1..]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let mut content = fs::read(&path).unwrap();
    content[case.at..case.at + case.bytes.len()].copy_from_slice(&case.bytes);
    fs::write(&path, content).unwrap();
    let mut client = daemon.negotiate();
    client.succeed(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'n', 'discard': 'unmap', \
         'file': {'driver': 'file', 'filename': 'DIR/broken'}}}",
    );
    client.succeed(
        "{'execute': 'block-export-add', 'arguments': {'type': 'vhost-user-blk', 'id': 'e', 'node-name': 'n', \
         'writable': true, 'addr': {'type': 'unix', 'path': 'DIR/blk'}}}",
    );
    let guest = Guest::at(&daemon.dir().join("blk"), DeviceOptions::default());
    (daemon, client, guest)
}

fn run(guest: &mut Guest, does: Does, offset: u64) -> Status {
    match does {
        Does::Reads => {
            let data = guest.alloc(u32::try_from(CLUSTER).unwrap());
            guest.run(&Request::Read { offset, data: &[data] })
        }
        Does::Writes => guest.write(offset, &vec![9; usize::try_from(CLUSTER).unwrap()]),
        Does::Discards => guest.run(&Request::Discard { offset, len: u32::try_from(CLUSTER).unwrap().into() }),
        Does::Allocates => guest.write(1 << 20, &vec![9; usize::try_from(CLUSTER).unwrap()]),
    }
}

/// How the request ended, what was told, and the image's feature bits.
fn outcome(program: &str, case: &Case) -> (String, Vec<String>, u8) {
    let (daemon, mut client, mut guest) = start(program, case);
    let status = format!("{:?}", run(&mut guest, case.does, CLUSTER));
    client.succeed("{'execute': 'query-version'}");
    let told: Vec<String> = client
        .events()
        .iter()
        .filter(|event| event["event"] == "BLOCK_IMAGE_CORRUPTED")
        .map(|event| sorted(&event["data"]))
        .collect();
    if program == TIDEMARK {
        other_blocks(&mut client, &mut guest, &told);
    }
    (status, told, fs::read(daemon.dir().join("broken")).unwrap()[79])
}

/// Members in the order of their names.
fn sorted(data: &Value) -> String {
    let mut members: Vec<String> =
        data.as_object().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
    members.sort();
    members.join(" ")
}

/// Blocks that nothing is wrong with are read all the same, and the node is there.
fn other_blocks(client: &mut Client, guest: &mut Guest, told: &[String]) {
    let fatal = told.iter().any(|event| event.contains("fatal=true"));
    let nodes = client.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    let node = nodes.as_array().unwrap().iter().find(|node| node["node-name"] == "n").unwrap();
    let marked = &node["image"]["format-specific"]["data"]["corrupt"];
    assert!(marked.as_bool().is_none_or(|marked| marked == fatal), "{node}");
    if told.iter().all(|event| !event.contains("L1 index")) {
        assert_eq!(guest.read(0, 4096), vec![1; 4096]);
    }
    assert_eq!(run(guest, Does::Writes, 2 * CLUSTER) == Status::Ok, !fatal, "{told:?}");
}

#[test]
fn what_is_found_to_be_corrupt_is_told_as_by_qemu_storage_daemon() {
    differs("qcow2: the disk after corruption was found");
    for case in cases() {
        let (expected, found) = (outcome(QEMU, &case), outcome(TIDEMARK, &case));
        assert_eq!(expected, found, "{:#x} {:x?} {:?}", case.at, case.bytes, case.does);
        assert_eq!(found.1.len(), 1, "{:#x} {:x?} {:?}: told", case.at, case.bytes, case.does);
    }
}

/// An image with a snapshot, whose guest cluster 1 leads into the snapshot's L2 table: how a write there ends, and what is
/// told.
fn write_into_a_snapshots_table(program: &str, members: &str) -> (Status, Vec<String>) {
    let mut daemon = Daemon::start(program, &[]);
    let path = daemon.dir().join("broken");
    let name = path.to_str().unwrap();
    for arguments in [
        &["qemu-img", "create", "-q", "-f", "qcow2", name, "16M"][..],
        &["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 256k", name],
        &["qemu-img", "snapshot", "-c", "s", name],
        &["qemu-io", "-f", "qcow2", "-c", "write -P 2 0 64k", name],
    ] {
        let output = Command::new(arguments[0]).args(&arguments[1..]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let mut content = fs::read(&path).unwrap();
    let word = |at: u64| u64::from_be_bytes(content[usize::try_from(at).unwrap()..][..8].try_into().unwrap());
    let table = |l1: u64| word(l1) & 0x00ff_ffff_ffff_fe00;
    let (active, inactive) = (table(word(40)), table(word(word(64))));
    assert_ne!(active, inactive, "the disk has a table of its own");
    let entry = usize::try_from(active).unwrap() + 8;
    content[entry..entry + 8].copy_from_slice(&(COPIED | inactive).to_be_bytes());
    fs::write(&path, content).unwrap();
    let mut client = daemon.negotiate();
    client.succeed(&format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': 'n'{members}, \
         'file': {{'driver': 'file', 'filename': 'DIR/broken'}}}}}}"
    ));
    client.succeed(
        "{'execute': 'block-export-add', 'arguments': {'type': 'vhost-user-blk', 'id': 'e', 'node-name': 'n', \
         'writable': true, 'addr': {'type': 'unix', 'path': 'DIR/blk'}}}",
    );
    let mut guest = Guest::at(&daemon.dir().join("blk"), DeviceOptions::default());
    let status = run(&mut guest, Does::Writes, CLUSTER);
    client.succeed("{'execute': 'query-version'}");
    let told = client.events().iter().filter(|event| event["event"] == "BLOCK_IMAGE_CORRUPTED");
    (status, told.map(|event| sorted(&event["data"])).collect())
}

#[test]
fn tables_of_snapshots_are_guarded_where_overlap_check_says_so() {
    for (members, guarded) in [
        ("", false),
        (", 'overlap-check': 'cached'", false),
        (", 'overlap-check': 'all'", true),
        (", 'overlap-check': {'inactive-l2': true}", true),
        (", 'overlap-check': {'template': 'all'}", true),
        (", 'overlap-check': {'template': 'all', 'inactive-l2': false}", false),
        (", 'overlap-check': {'template': 'none', 'inactive-l2': true}", true),
    ] {
        let [expected, found] = [QEMU, TIDEMARK].map(|program| write_into_a_snapshots_table(program, members));
        assert_eq!(found, expected, "{members}");
        assert_eq!(found.0 == Status::IoError, guarded, "{members}");
    }
}
