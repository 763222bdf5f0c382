//! What discards, zeroes and detected zeroes leave of an image, beside `qemu-storage-daemon`: the same clusters for
//! `qemu-img map`, and the same space in an external data file.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use qmp_lite::wire::{self, Value};
use rustix::fs::{SeekFrom, seek};
use tidemark_frontend::{DeviceOptions, Request, Status};

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, differs};
use crate::vhost::guest::Guest;

const CLUSTER: u64 = 64 << 10;

fn shell(daemon: &Daemon, script: &str) -> String {
    let output = Command::new("bash").args(["-ec", script]).current_dir(daemon.dir()).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A guest of an image `new` that was made by `make` and is node `n`.
fn start(program: &str, make: &str, members: &str) -> (Daemon, Client, Guest) {
    let mut daemon = Daemon::start(program, &[]);
    shell(&daemon, make);
    let mut client = daemon.negotiate();
    client.succeed(&format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'qcow2', 'node-name': 'n', \
         'file': {{'driver': 'file', 'filename': 'DIR/new'}}{members}}}}}"
    ));
    client.succeed(
        "{'execute': 'block-export-add', 'arguments': {'type': 'vhost-user-blk', 'id': 'e', 'node-name': 'n', \
         'writable': true, 'addr': {'type': 'unix', 'path': 'DIR/blk'}}}",
    );
    let guest = Guest::at(&daemon.dir().join("blk"), DeviceOptions::default());
    (daemon, client, guest)
}

/// Closes the image, so that its file has everything.
fn end(daemon: &Daemon, client: &mut Client, guest: Guest) {
    drop(guest);
    client.succeed("{'execute': 'block-export-del', 'arguments': {'id': 'e', 'mode': 'hard'}}");
    let deadline = std::time::Instant::now() + super::daemon::TIMEOUT;
    let del = "{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}";
    while client.ask(del)[0].get("error").is_some() {
        assert!(std::time::Instant::now() < deadline, "the node stays in use");
    }
    shell(daemon, "qemu-img check -q -f qcow2 new");
}

/// A letter for each cluster: data, zeroes with space, zeroes without, nothing. Where its file has a hole after the
/// beginning of a cluster is the file system's matter.
fn clusters(daemon: &Daemon) -> String {
    let map = wire::parse(&shell(daemon, "qemu-img map --output=json -f qcow2 new")).unwrap();
    let extents = map.as_array().unwrap();
    let end = |extent: &Value| extent["start"].as_u64().unwrap() + extent["length"].as_u64().unwrap();
    let letter = |number: u64| {
        let extent = extents.iter().find(|extent| end(extent) > number * CLUSTER).unwrap();
        match (extent["zero"].as_bool(), extent.get("offset").is_some()) {
            _ if extent["depth"] != 0 || extent["present"] == false => '-',
            (Some(false), _) => 'D',
            (_, true) => 'Z',
            (_, false) => 'z',
        }
    };
    (0..end(extents.last().unwrap()).div_ceil(CLUSTER)).map(letter).collect()
}

/// The clusters of a file that have space.
fn space(path: &Path) -> String {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let has_data = |at: u64| seek(&file, SeekFrom::Data(at)).is_ok_and(|data| data < at + CLUSTER);
    (0..len.div_ceil(CLUSTER)).map(|number| if has_data(number * CLUSTER) { 'D' } else { '-' }).collect()
}

fn zero(guest: &mut Guest, first: u64, clusters: u64, unmap: bool) {
    let (offset, len) = (first * CLUSTER, clusters * CLUSTER);
    assert_eq!(guest.run(&Request::WriteZeroes { offset, len, unmap }), Status::Ok);
}

fn discard(guest: &mut Guest, first: u64, clusters: u64) {
    let (offset, len) = (first * CLUSTER, clusters * CLUSTER);
    assert_eq!(guest.run(&Request::Discard { offset, len }), Status::Ok);
}

fn write(guest: &mut Guest, offset: u64, len: u64, byte: u8) {
    assert_eq!(guest.write(offset, &vec![byte; usize::try_from(len).unwrap()]), Status::Ok);
}

/// The clusters of the image and those of its data file, if it has one, after all kinds of requests.
fn left(program: &str, make: &str, members: &str) -> (String, String) {
    let (daemon, mut client, mut guest) = start(program, make, members);
    write(&mut guest, 0, 16 * CLUSTER, 1);
    discard(&mut guest, 1, 2);
    zero(&mut guest, 4, 1, true);
    zero(&mut guest, 6, 1, false);
    discard(&mut guest, 8, 2);
    write(&mut guest, 8 * CLUSTER, 512, 2);
    // Part of a cluster is not discarded; its zeroes are written.
    assert_eq!(guest.run(&Request::Discard { offset: 11 * CLUSTER, len: 4096 }), Status::Ok);
    assert_eq!(guest.run(&Request::WriteZeroes { offset: 12 * CLUSTER, len: 4096, unmap: true }), Status::Ok);
    zero(&mut guest, 6, 1, true);
    discard(&mut guest, 20, 2);
    for (cluster, byte) in [(0, 1), (3, 1), (4, 0), (6, 0), (8, 2), (12, 0), (13, 1)] {
        assert_eq!(guest.read(cluster * CLUSTER, 512), vec![byte; 512], "cluster {cluster}");
    }
    assert_eq!(guest.read(8 * CLUSTER + 512, 512)[0], if discards(members) { 0 } else { 1 });
    end(&daemon, &mut client, guest);
    let apart = daemon.dir().join("apart");
    let space = if apart.exists() { space(&apart) } else { String::new() };
    (clusters(&daemon), space)
}

/// Whether a guest's discards have an effect.
fn discards(members: &str) -> bool {
    members.starts_with(", 'discard': 'unmap'")
}

const APART: &str = "qemu-img create -q -f qcow2 -o data_file=apart,data_file_raw=off new 2M";
/// Over a file that has something everywhere.
const OVER: &str = "qemu-io -f raw -c 'write -q -P 9 0 1M' disk.img; truncate -s 2M disk.img; \
                    qemu-io -f raw -c 'write -q -P 9 1M 1M' disk.img; \
                    qemu-img create -q -f qcow2 -b disk.img -F raw new 2M";

#[test]
fn discards_and_zeroes_leave_the_clusters_that_qemu_storage_daemon_leaves() {
    let unmap = ", 'discard': 'unmap'";
    let apart =
        |more: &str, data: &str| format!("{more}, 'data-file': {{'driver': 'file', 'filename': 'DIR/apart'{data}}}");
    for (make, members) in [
        (OVER, ""),
        (OVER, unmap),
        (APART, &apart(unmap, unmap)),
        (APART, &apart(unmap, "")),
        (APART, &apart("", unmap)),
        (APART, &apart(", 'discard': 'unmap', 'pass-discard-request': false", unmap)),
        (&APART.replace("raw=off", "raw=on"), &apart(unmap, unmap)),
    ] {
        let (expected, found) = (left(QEMU, make, members), left(TIDEMARK, make, members));
        // Without an image below, nobody can tell what was never there from zeroes.
        let seen = |clusters: &str| if make == OVER { clusters.to_owned() } else { clusters.replace('z', "-") };
        assert_eq!(seen(&found.0), seen(&expected.0), "{make} {members}: clusters");
        assert_eq!(found.1, expected.1, "{make} {members}: space");
    }
}

/// The clusters of an image after writes of zeroes that `detect-zeroes` sees.
fn detected(program: &str, members: &str) -> String {
    let (daemon, mut client, mut guest) = start(program, OVER, members);
    write(&mut guest, 0, 8 * CLUSTER, 1);
    write(&mut guest, CLUSTER, 2 * CLUSTER, 0);
    // Parts of clusters: of one that is there, of one that is not.
    write(&mut guest, 4 * CLUSTER + 4096, 4096, 0);
    write(&mut guest, 10 * CLUSTER + 4096, 4096, 0);
    write(&mut guest, 16 * CLUSTER, 3 * CLUSTER, 0);
    let mut nearly = vec![0; usize::try_from(CLUSTER).unwrap()];
    nearly[usize::try_from(CLUSTER).unwrap() - 1] = 1;
    assert_eq!(guest.write(20 * CLUSTER, &nearly), Status::Ok);
    assert_eq!(guest.read(CLUSTER, 4096), vec![0; 4096]);
    assert_eq!(guest.read(16 * CLUSTER, 4096), vec![0; 4096], "the image below does not shine through");
    end(&daemon, &mut client, guest);
    clusters(&daemon)
}

#[test]
fn written_zeroes_become_the_zero_clusters_that_qemu_storage_daemon_makes_of_them() {
    for members in [
        "",
        ", 'detect-zeroes': 'on'",
        ", 'detect-zeroes': 'on', 'discard': 'unmap'",
        ", 'detect-zeroes': 'unmap', 'discard': 'unmap'",
    ] {
        let (expected, found) = (detected(QEMU, members), detected(TIDEMARK, members));
        assert_eq!(found, expected, "{members}");
        assert_eq!(found.contains('z'), !members.is_empty(), "{members}: {found}");
    }
}

/// How writes end that are to the last cluster of an image with a data file that ends in it.
fn at_the_end(program: &str) -> (Vec<Status>, Guest, Daemon) {
    let make = "qemu-img create -q -f qcow2 -o data_file=apart,data_file_raw=off new 100k; truncate -s 100k apart";
    let data = ", 'data-file': {'driver': 'raw', 'size': 102400, 'file': {'driver': 'file', 'filename': 'DIR/apart'}}";
    let (daemon, _client, mut guest) = start(program, make, data);
    let ends = [(90 << 10, 512), (64 << 10, 36 << 10), (0, 4096)];
    let statuses = ends.map(|(offset, len)| guest.write(offset, &vec![3; len])).to_vec();
    (statuses, guest, daemon)
}

/// QEMU puts whole clusters there, and finds no room for the last one.
#[test]
fn a_data_file_need_not_end_where_a_cluster_does() {
    differs("qcow2: a data file that ends within a cluster");
    let (statuses, ..) = at_the_end(QEMU);
    assert_eq!(statuses, [Status::IoError, Status::IoError, Status::Ok]);
    let (statuses, mut guest, daemon) = at_the_end(TIDEMARK);
    assert_eq!(statuses, [Status::Ok; 3]);
    assert_eq!(guest.read(64 << 10, 36 << 10), vec![3; 36 << 10]);
    assert_eq!(std::fs::metadata(daemon.dir().join("apart")).unwrap().len(), 100 << 10);
}

/// How many clusters a guest can write to an image in a file that cannot grow.
fn room(program: &str) -> usize {
    let make = "qemu-img create -q -f qcow2 new 16M; truncate -s 1M new";
    let mut daemon = Daemon::start(program, &[]);
    shell(&daemon, make);
    let mut client = daemon.negotiate();
    client.succeed(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'n', 'file': {'driver': 'raw', \
         'size': 1048576, 'file': {'driver': 'file', 'filename': 'DIR/new'}}}}",
    );
    client.succeed(
        "{'execute': 'block-export-add', 'arguments': {'type': 'vhost-user-blk', 'id': 'e', 'node-name': 'n', \
         'writable': true, 'addr': {'type': 'unix', 'path': 'DIR/blk'}}}",
    );
    let mut guest = Guest::at(&daemon.dir().join("blk"), DeviceOptions::default());
    let piece = vec![1; usize::try_from(CLUSTER).unwrap()];
    (0..64).take_while(|number| guest.write(number * CLUSTER, &piece) == Status::Ok).count()
}

#[test]
fn an_image_on_a_device_is_filled_to_the_last_cluster_as_by_qemu_storage_daemon() {
    assert_eq!(room(TIDEMARK), room(QEMU));
}

#[test]
fn zeroes_hide_the_image_below_also_when_they_were_written_without_it() {
    for program in [TIDEMARK, QEMU] {
        let make = "qemu-img create -q -f qcow2 below 1M; qemu-io -f qcow2 -c 'write -q -P 7 0 1M' below; \
                    qemu-img create -q -f qcow2 -F qcow2 -b below new";
        let (daemon, mut client, mut guest) = start(program, make, ", 'backing': null");
        zero(&mut guest, 1, 2, true);
        zero(&mut guest, 4, 1, false);
        end(&daemon, &mut client, guest);
        assert_eq!(clusters(&daemon), "-zz-z-----------", "{program}");
        shell(
            &daemon,
            "qemu-io -f qcow2 -c 'read -q -P 0 64k 128k' -c 'read -q -P 0 256k 64k' -c 'read -q -P 7 0 64k' new",
        );
    }
}
