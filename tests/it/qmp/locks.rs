//! Locks of images: which bytes of their files are locked, and what QEMU's tools may do beside us, is as beside
//! `qemu-storage-daemon`.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, differs, displace};

/// The images that are opened. A data file is kept for its image from when it is opened, by QEMU only while it is used.
const FILES: [&str; 3] = ["base", "top", "apart"];

fn prepare(daemon: &Daemon) {
    let script = "
        set -e
        qemu-img create -q -f qcow2 base 1M
        qemu-img create -q -f qcow2 -b base -F qcow2 top
        qemu-img create -q -f qcow2 -o data_file=$PWD/data apart 1M
    ";
    let status = Command::new("bash").args(["-c", script]).current_dir(daemon.dir()).status().unwrap();
    assert!(status.success());
}

/// The locked bytes of a file: how, the first and the last.
fn locked(daemon: &Daemon, file: &str) -> Vec<String> {
    let inode = std::fs::metadata(daemon.dir().join(file)).unwrap().ino();
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let mut found = Vec::new();
    for line in locks.lines() {
        // number: kind, whether it only advises, read or write, process, device:inode, first, last
        let words: Vec<_> = line.split_whitespace().filter(|word| *word != "->").collect();
        if let [_, "OFDLCK", _, how, _, place, first, last] = words[..]
            && place.rsplit(':').next() == Some(&inode.to_string())
        {
            found.push(format!("{how} {first}-{last}"));
        }
    }
    found.sort();
    found
}

/// What a tool says and how it ends.
fn tool(daemon: &Daemon, command: &str) -> String {
    let output = Command::new("bash").args(["-c", command]).current_dir(daemon.dir()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    format!("{command}: {} {}", output.status.success(), displace(&text, daemon.dir()))
}

fn run(client: &mut Client, command: &str, arguments: &str) {
    client.succeed(&format!("{{'execute': '{command}', 'arguments': {{{arguments}}}}}"));
}

fn play(program: &str) -> Vec<String> {
    let mut daemon = Daemon::start(program, &[]);
    prepare(&daemon);
    let mut client = daemon.negotiate();
    let mut came = Vec::new();
    let image = |image: &str, more: &str| {
        format!(
            "'driver': 'qcow2', 'node-name': '{image}', 'file': {{'driver': 'file', 'filename': 'DIR/{image}'}}{more}"
        )
    };
    let export = |writable: bool| {
        format!(
            "'type': 'vhost-user-blk', 'id': 'e', 'node-name': 'top', 'writable': {writable}, \
             'addr': {{'type': 'unix', 'path': 'DIR/e.sock'}}"
        )
    };
    let beside = |daemon: &Daemon, came: &mut Vec<String>, what: &str| {
        came.extend(FILES.iter().map(|file| format!("{what}: {file}: {:?}", locked(daemon, file))));
        for file in ["base", "top", "apart"] {
            for command in [
                format!("qemu-img info {file}"),
                format!("qemu-img info -U {file}"),
                format!("qemu-img check -q {file}"),
                format!("qemu-img check -q -r all {file}"),
                format!("qemu-img convert -O raw {file} out"),
                format!("qemu-img resize -q {file} 1M"),
                format!("qemu-img snapshot -l {file}"),
                format!("qemu-io -r -c 'read 0 512' {file} > /dev/null"),
                format!("qemu-io -c 'write 0 512' {file} > /dev/null"),
            ] {
                came.push(format!("{what}: {}", tool(daemon, &command)));
            }
        }
    };
    for more in ["", ", 'read-only': true"] {
        for name in ["top", "apart"] {
            run(&mut client, "blockdev-add", &image(name, more));
        }
        beside(&daemon, &mut came, &format!("nodes{more}"));
        run(&mut client, "block-export-add", &export(more.is_empty()));
        beside(&daemon, &mut came, &format!("export{more}"));
        run(&mut client, "block-export-del", "'id': 'e'");
        while client.succeed("{'execute': 'query-block-exports'}").as_array().is_some_and(|list| !list.is_empty()) {}
        for name in ["top", "apart"] {
            run(&mut client, "blockdev-del", &format!("'node-name': '{name}'"));
        }
    }
    beside(&daemon, &mut came, "nothing");
    came
}

#[test]
fn images_are_locked_as_by_qemu_storage_daemon() {
    differs("qcow2: locks of a data file");
    let [expected, found] = [QEMU, TIDEMARK].map(play);
    assert_eq!(expected.len(), found.len());
    let wrong = expected.iter().zip(&found).filter(|(expected, found)| expected != found);
    let wrong: Vec<_> = wrong.map(|(expected, found)| format!("  QEMU: {expected}\n  ours: {found}")).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(expected.iter().any(|line| line.contains("READ 201")), "locks are seen at all");
}
