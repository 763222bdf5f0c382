//! External snapshots under a guest's load: the guest notices nothing, and each image below is what the disk was at one
//! moment, in the order of the snapshots.

use std::path::Path;
use std::process::Command;
use std::thread;

use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon, FILE};
use super::load::{BLOCK, BLOCKS, Load};
use crate::qmp::daemon::Client;

/// A disk that begins as a raw file, and one that begins as an image.
const DISKS: [&str; 2] = [FILE, "driver=qcow2,node-name=n,file.driver=file,file.filename=disk,discard=unmap"];

/// Runs a line of a shell in the daemon's directory.
fn shell(daemon: &Daemon, script: &str) -> String {
    let directory = daemon.file("disk").parent().map(Path::to_owned).unwrap();
    let output = Command::new("bash").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn serve(node: &str) -> Daemon {
    let image = node.starts_with("driver=qcow2");
    Daemon::with_image(node, |place| {
        let make = if image { format!("qemu-img create -q -f qcow2 disk {DISK}") } else { "true".to_owned() };
        assert!(Command::new("bash").args(["-c", &make]).current_dir(place.path()).status().unwrap().success());
    })
}

/// Puts image `s{number}` on top of the one before.
fn snapshot(qmp: &mut Client, number: u32) {
    let last = if number == 1 { "n".to_owned() } else { format!("s{}", number - 1) };
    let command = "blockdev-snapshot-sync";
    qmp.succeed(&format!(
        "{{'execute': '{command}', 'arguments': {{'node-name': '{last}', 'snapshot-file': 's{number}', \
         'snapshot-node-name': 's{number}'}}}}"
    ));
}

/// The blocks' values in the disk that `file` and what is below it make.
fn values(daemon: &Daemon, file: &str, format: &str) -> Vec<u64> {
    shell(daemon, &format!("qemu-img convert -U -f {format} -O raw {file} content"));
    let content = std::fs::read(daemon.file("content")).unwrap();
    let value = |block: &[u8]| {
        let value = u64::from_le_bytes(block[..8].try_into().unwrap());
        assert!(block == value.to_le_bytes().repeat(BLOCK as usize / 8), "a torn block in {file}");
        value
    };
    content.chunks(BLOCK as usize).take(BLOCKS).map(value).collect()
}

#[test]
fn each_of_many_snapshots_is_one_moment_of_a_disk_under_load() {
    const SNAPSHOTS: u32 = 12;
    for node in DISKS {
        let mut daemon = serve(node);
        let mut device = daemon.connect(DeviceOptions::default().with_queues(4, 64));
        let mut load = Load::new(&mut device, 4, 11);
        load.keep_record();
        load.steps(300);
        let mut qmp = daemon.qmp();
        thread::scope(|scope| {
            let snapshots = scope.spawn(|| (1..=SNAPSHOTS).for_each(|number| snapshot(&mut qmp, number)));
            while !snapshots.is_finished() {
                load.steps(20);
            }
            snapshots.join().unwrap();
        });
        load.steps(300);
        load.flush();
        let mut last = 0;
        for number in 0..=SNAPSHOTS {
            let (file, format) = match number {
                0 if node == FILE => ("disk".to_owned(), "raw"),
                0 => ("disk".to_owned(), "qcow2"),
                number => (format!("s{number}"), "qcow2"),
            };
            let found = values(&daemon, &file, format);
            let moment = load.record().moment(&found).unwrap_or_else(|why| panic!("{node}, {file}: {why}"));
            assert!(moment.end > last, "{file} is older than the one below");
            last = moment.start;
        }
        load.drain();
        drop(load);
        drop(device);
        daemon.terminate();
        for number in 1..=SNAPSHOTS {
            shell(&daemon, &format!("qemu-img check -q s{number}"));
        }
    }
}

#[test]
fn what_was_flushed_before_and_after_a_snapshot_survives_the_daemon() {
    for node in DISKS {
        let mut daemon = serve(node);
        let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
        let mut load = Load::new(&mut device, 2, 13);
        load.steps(200);
        load.flush();
        snapshot(&mut daemon.qmp(), 1);
        load.steps(200);
        load.flush();
        let expected = load.expected(DISK);
        daemon.kill();
        shell(&daemon, "qemu-img convert -U -f qcow2 -O raw s1 content; qemu-img check -q -U s1 || test $? -eq 3");
        assert!(std::fs::read(daemon.file("content")).unwrap() == expected, "{node}: flushed data is lost");
    }
}

#[test]
fn an_image_that_a_snapshot_has_made_is_closed_with_the_export_and_leaves_the_one_below() {
    let daemon = serve(DISKS[0]);
    let mut qmp = daemon.qmp();
    snapshot(&mut qmp, 1);
    for node in ["n", "s1"] {
        let refused = qmp.ask(&format!("{{'execute': 'blockdev-del', 'arguments': {{'node-name': '{node}'}}}}"));
        let text = refused[0]["error"]["desc"].as_str().unwrap();
        assert!(text.contains("in use") || text.contains("is used"), "{text}");
    }
    qmp.succeed("{'execute': 'block-export-del', 'arguments': {'id': 'e', 'mode': 'hard'}}");
    qmp.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}");
    let nodes = qmp.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    assert_eq!(nodes.as_array().map(Vec::len), Some(0), "{nodes:?}");
}
