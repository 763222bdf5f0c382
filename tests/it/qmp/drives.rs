//! `drive-backup` as QEMU's tools see what it has made: on files, on block devices, above other images.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;

use super::daemon::{Client, Daemon, QEMU, TIDEMARK};
use crate::cli::process::wait_until;

fn shell(daemon: &Daemon, script: &str) -> String {
    let output = Command::new("bash").args(["-ec", script]).current_dir(daemon.dir()).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A daemon with a disk `d` of 2 MiB, some of it a hole, and an image `o` above an image that has it.
fn start(program: &str) -> (Daemon, Client) {
    let mut daemon = Daemon::start(program, &[]);
    shell(
        &daemon,
        "truncate -s 2M d.raw; head -c 300000 /dev/urandom | dd of=d.raw bs=4096 seek=64 conv=notrunc status=none",
    );
    shell(
        &daemon,
        "qemu-img convert -f raw -O qcow2 d.raw b.qcow2; qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 o.qcow2",
    );
    shell(&daemon, "qemu-io -f qcow2 -c 'write -P 7 1M 100k' o.qcow2; mkdir sub");
    let mut client = daemon.negotiate();
    client.succeed(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'file', 'node-name': 'd', 'filename': 'DIR/d.raw'}}",
    );
    client.succeed(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'o', 'file': \
         {'driver': 'file', 'filename': 'DIR/o.qcow2'}}}",
    );
    (daemon, client)
}

/// Runs a backup to its end.
fn back_up(client: &mut Client, arguments: &str) {
    client.succeed(&format!(
        "{{'execute': 'drive-backup', 'arguments': {{'job-id': 'j', 'auto-dismiss': false, {arguments}}}}}"
    ));
    wait_until("the end of the backup", || client.succeed("{'execute': 'query-jobs'}")[0]["status"] == "concluded");
    let jobs = client.succeed("{'execute': 'query-jobs'}");
    assert!(jobs[0].get("error").is_none(), "{arguments}: {jobs}");
    client.succeed("{'execute': 'job-dismiss', 'arguments': {'id': 'j'}}");
}

#[test]
fn what_is_made_is_the_disk_to_qemus_tools_whatever_its_format_and_place() {
    for program in [QEMU, TIDEMARK] {
        let (daemon, mut client) = start(program);
        for (device, more, check) in [
            ("d", "'target': 'DIR/1', 'sync': 'full'", "qemu-img compare -f raw -F raw d.raw 1"),
            (
                "d",
                "'target': 'DIR/2', 'sync': 'full', 'format': 'qcow2'",
                "qemu-img compare -f raw -F qcow2 d.raw 2; qemu-img check -q 2",
            ),
            ("o", "'target': 'DIR/3', 'sync': 'full'", "qemu-img compare -U -F qcow2 o.qcow2 3; qemu-img check -q 3"),
            (
                "o",
                "'target': 'DIR/4', 'sync': 'full', 'format': 'raw'",
                "qemu-img compare -U -f qcow2 -F raw o.qcow2 4",
            ),
            // Above what is below it, also elsewhere.
            ("o", "'target': 'DIR/5', 'sync': 'top'", "qemu-img compare -U -F qcow2 o.qcow2 5; qemu-img check -q 5"),
            ("o", "'target': 'DIR/sub/6', 'sync': 'top'", "qemu-img compare -U -F qcow2 o.qcow2 sub/6"),
        ] {
            back_up(&mut client, &format!("'device': '{device}', {more}"));
            shell(&daemon, check);
        }
        let own = shell(
            &daemon,
            "qemu-img map -U --output json sub/6 | jq -c '[.[] | select(.depth == 0) | [.start, .length]]'",
        );
        assert_eq!(own.trim(), "[[1048576,131072]]", "{program}");
    }
}

#[test]
fn block_devices_take_backups_as_they_are_and_with_an_image_in_them() {
    for program in [QEMU, TIDEMARK] {
        let (daemon, mut client) = start(program);
        for (len, arguments, check) in [
            ("2M", "'format': 'raw', 'mode': 'existing'", "qemu-img compare -f raw -F raw d.raw under"),
            ("2M", "'mode': 'existing', 'format': 'host_device'", "qemu-img compare -f raw -F raw d.raw under"),
            ("4M", "'format': 'qcow2'", "qemu-img compare -f raw -F qcow2 d.raw under; qemu-img check -q under"),
        ] {
            shell(&daemon, &format!("rm -f under; head -c {len} /dev/zero | tr '\\0' '\\377' >under"));
            let device = shell(&daemon, "losetup -f --show under");
            let device = device.trim();
            back_up(&mut client, &format!("'device': 'd', 'target': '{device}', 'sync': 'full', {arguments}"));
            shell(&daemon, &format!("sync; losetup -d {device}; {check}"));
        }
    }
}

#[test]
fn a_backup_that_cannot_begin_takes_no_file_from_anybody_and_leaves_none_open() {
    let (daemon, mut client) = start(TIDEMARK);
    let before = shell(&daemon, "sha256sum d.raw o.qcow2 b.qcow2");
    // The source itself, and an image of its chain.
    for (device, target) in [
        ("d", "'DIR/d.raw'"),
        ("d", "'DIR/d.raw', 'format': 'qcow2'"),
        ("o", "'DIR/o.qcow2'"),
        ("o", "'DIR/o.qcow2', 'format': 'raw'"),
        ("o", "'DIR/b.qcow2', 'format': 'raw'"),
    ] {
        for mode in ["existing", "absolute-paths"] {
            let text = format!(
                "{{'execute': 'drive-backup', 'arguments': {{'job-id': 'j', 'device': '{device}', 'sync': 'full', \
                 'mode': '{mode}', 'target': {target}}}}}"
            );
            let reply = client.ask(&text).remove(0);
            assert!(reply.get("error").is_some(), "{text}: {reply}");
        }
    }
    assert_eq!(shell(&daemon, "sha256sum d.raw o.qcow2 b.qcow2"), before);
    let nodes = client.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    let drivers: BTreeSet<_> = nodes.as_array().unwrap().iter().map(|node| node["file"].to_string()).collect();
    assert_eq!((nodes.as_array().unwrap().len(), drivers.len()), (5, 3), "{nodes}");
    // Nobody holds a file that was made for a backup that did not begin.
    client.ask(
        "{'execute': 'drive-backup', 'arguments': {'job-id': '1', 'device': 'd', 'sync': 'full', 'target': 'DIR/x'}}",
    );
    shell(&daemon, "qemu-io -f raw -c 'write 0 4k' x");
    drop(File::create(daemon.dir().join("x")).unwrap());
    fs::remove_file(daemon.dir().join("x")).unwrap();
}
