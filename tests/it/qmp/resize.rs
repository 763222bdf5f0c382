//! `block_resize` of qcow2 images, beside `qemu-storage-daemon`: the same answers, and images of which QEMU's tools say
//! the same afterwards.

use std::process::Command;

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, differs, displace};

const IMAGES: [&str; 6] = ["new", "old", "snapshots", "oldsnapshots", "over", "oldover"];

fn shell(daemon: &Daemon, script: &str) -> String {
    let output = Command::new("bash").args(["-c", script]).current_dir(daemon.dir()).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    displace(&String::from_utf8(output.stdout).unwrap(), daemon.dir())
}

/// Images of a mebibyte, with something at their ends; those over another have less than that one.
fn prepare(daemon: &Daemon) {
    let script = "
        set -e
        mk() { qemu-img create -q -f qcow2 \"$@\"; }
        mk new 1M
        mk -o compat=0.10 old 1M
        mk snapshots 1M
        mk -o compat=0.10 oldsnapshots 1M
        mk base 4M; qemu-io -c 'write -P 7 0 4M' base > /dev/null
        mk -b base -F qcow2 over 1M
        mk -o compat=0.10 -b base -F qcow2 oldover 1M
        mk -o data_file=$PWD/data apart 1M
        for image in new old snapshots oldsnapshots over oldover apart; do
            qemu-io -c 'write -P 1 0 4k' -c 'write -P 2 1020k 4k' $image > /dev/null
        done
        qemu-img snapshot -c one snapshots
        qemu-img snapshot -c one oldsnapshots
    ";
    shell(daemon, script);
}

fn request(client: &mut Client, daemon: &Daemon, command: &str, arguments: &str) -> String {
    let replies = client.ask(&format!("{{'execute': '{command}', 'arguments': {{{arguments}}}}}"));
    let [reply] = &replies[..] else { panic!("{replies:?}") };
    reply.get("error").map_or("ok".to_owned(), |error| displace(error["desc"].as_str().unwrap(), daemon.dir()))
}

/// What comes of all this with one daemon: replies, and what QEMU's tools see of the images.
fn play(program: &str) -> Vec<String> {
    let mut daemon = Daemon::start(program, &[]);
    prepare(&daemon);
    let mut client = daemon.negotiate();
    let mut came = Vec::new();
    for image in IMAGES {
        let file = format!("'driver': 'file', 'filename': 'DIR/{image}', 'discard': 'unmap'");
        let add = format!("'driver': 'qcow2', 'node-name': 'n', 'discard': 'unmap', 'file': {{{file}}}");
        assert_eq!(request(&mut client, &daemon, "blockdev-add", &add), "ok");
        for size in [100u64, 2 << 20, 512 << 10, 0, 8 << 20, 64 << 30, 3 << 20, 1 << 62] {
            let answer = request(&mut client, &daemon, "block_resize", &format!("'node-name': 'n', 'size': {size}"));
            came.push(format!("{image} to {size}: {answer}"));
        }
        assert_eq!(request(&mut client, &daemon, "blockdev-del", "'node-name': 'n'"), "ok");
        shell(&daemon, &format!("qemu-img check -q {image}"));
        let seen = shell(&daemon, &format!("qemu-img convert -O raw {image} raw && stat -c %s raw && sha256sum < raw"));
        came.push(format!("{image}: {seen}"));
    }
    let base = "'driver': 'qcow2', 'node-name': 'below', 'file': {'driver': 'file', 'filename': 'DIR/new'}";
    let top = "'driver': 'qcow2', 'node-name': 'top', 'backing': 'below', \
               'file': {'driver': 'file', 'filename': 'DIR/old'}";
    let read_only = "'driver': 'qcow2', 'node-name': 'ro', 'read-only': true, \
                     'file': {'driver': 'file', 'filename': 'DIR/snapshots'}";
    for (command, arguments) in [
        ("blockdev-add", base),
        ("blockdev-add", top),
        ("blockdev-add", read_only),
        ("block_resize", "'node-name': 'below', 'size': 512"),
        ("block_resize", "'node-name': 'ro', 'size': 512"),
        ("block_resize", "'node-name': 'top', 'size': 1536"),
    ] {
        came.push(format!("{command} {arguments}: {}", request(&mut client, &daemon, command, arguments)));
    }
    came
}

/// A daemon of QEMU's that shrinks an image with a data file aborts: ours alone.
#[test]
fn a_data_file_is_as_long_as_the_disk() {
    differs("block_resize: an image with a data file becomes shorter");
    let mut daemon = Daemon::start(TIDEMARK, &[]);
    prepare(&daemon);
    let mut client = daemon.negotiate();
    let file = "'driver': 'file', 'filename': 'DIR/apart'";
    let add = format!("'driver': 'qcow2', 'node-name': 'n', 'file': {{{file}}}");
    assert_eq!(request(&mut client, &daemon, "blockdev-add", &add), "ok");
    for size in [2u64 << 20, 512 << 10, 0, 8 << 20, 1536 << 10] {
        let arguments = format!("'node-name': 'n', 'size': {size}");
        assert_eq!(request(&mut client, &daemon, "block_resize", &arguments), "ok");
        assert_eq!(shell(&daemon, "stat -c %s data").trim(), size.to_string());
    }
    assert_eq!(request(&mut client, &daemon, "blockdev-del", "'node-name': 'n'"), "ok");
    shell(&daemon, "qemu-img check -q apart");
    assert_eq!(shell(&daemon, "qemu-img convert -O raw apart raw; tr -d '\\0' < raw | wc -c").trim(), "0");
}

#[test]
fn images_get_the_sizes_that_qemu_storage_daemon_gives_them() {
    let [expected, found] = [QEMU, TIDEMARK].map(play);
    assert_eq!(found, expected);
}

/// Of two images with something everywhere: one table of counts, and a block of them for each 256 clusters.
#[test]
fn the_file_of_an_image_that_becomes_shorter_is_as_short_as_qemu_img_makes_it() {
    let mut daemon = Daemon::start(TIDEMARK, &[]);
    let script = "
        set -e
        for size in 512 64k; do
            qemu-img create -q -f qcow2 -o cluster_size=$size full$size 4M
            qemu-io -c 'write -q -P 5 0 4M' full$size
            cp full$size by-qemu$size
            qemu-img resize -q -f qcow2 --shrink by-qemu$size 256k
        done
    ";
    shell(&daemon, script);
    let mut client = daemon.negotiate();
    for size in ["512", "64k"] {
        let file = format!("'driver': 'file', 'filename': 'DIR/full{size}'");
        let add = format!("'driver': 'qcow2', 'node-name': 'n', 'file': {{{file}}}");
        assert_eq!(request(&mut client, &daemon, "blockdev-add", &add), "ok");
        assert_eq!(request(&mut client, &daemon, "block_resize", "'node-name': 'n', 'size': 262144"), "ok");
        let length = |name: &str| std::fs::metadata(daemon.dir().join(name)).unwrap().len();
        let (found, by_qemu) = (length(&format!("full{size}")), length(&format!("by-qemu{size}")));
        assert!(found <= by_qemu, "{size}: {found} bytes, {by_qemu} by qemu-img");
        // And it goes on as an image.
        assert_eq!(request(&mut client, &daemon, "block_resize", "'node-name': 'n', 'size': 4194304"), "ok");
        assert_eq!(request(&mut client, &daemon, "blockdev-del", "'node-name': 'n'"), "ok");
        shell(&daemon, &format!("qemu-img check -q full{size}"));
        let kept = "qemu-io -c 'read -q -P 5 0 256k' -c 'read -q -P 0 256k 3840k'";
        assert_eq!(shell(&daemon, &format!("{kept} full{size}")), "");
    }
}
