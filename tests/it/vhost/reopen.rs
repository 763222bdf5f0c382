//! Nodes that get other options under a guest's load, and what a killed daemon leaves of an image that was reopened.

use std::path::Path;
use std::process::Command;
use std::thread;

use qmp_lite::wire::Value;
use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon};
use super::load::Load;
use crate::cli::process::wait_until;
use crate::qmp::daemon::Client;

/// More than any number of changes that there might be room for.
const CHANGES: usize = 150;

/// Runs a line of a shell in the daemon's directory.
fn shell(daemon: &Daemon, script: &str) -> String {
    let directory = daemon.file("disk").parent().map(Path::to_owned).unwrap();
    let output = Command::new("bash").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The daemon over an image with a bitmap made by QEMU.
fn serve() -> Daemon {
    Daemon::serve_image(&[], |place| {
        let make =
            format!("qemu-img create -q -f qcow2 disk {DISK} && qemu-img bitmap --add disk b && truncate -s 1M z");
        let made = Command::new("bash").args(["-c", &make]).current_dir(place.path()).status().unwrap();
        assert!(made.success());
    })
}

/// The image's node and its file, as they are to be described.
struct Nodes {
    image: String,
    file: String,
}

impl Nodes {
    fn of(qmp: &mut Client) -> Self {
        let mut nodes = Value::Null;
        // Its monitor is there first.
        wait_until("the nodes", || {
            nodes = qmp.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
            nodes.as_array().is_some_and(|nodes| nodes.iter().any(|node| node["drv"] == "qcow2"))
        });
        let find = |driver: &str| nodes.as_array().unwrap().iter().find(|node| node["drv"] == driver).unwrap().clone();
        let name = |driver: &str| find(driver)["node-name"].as_str().unwrap().to_owned();
        let path = find("file")["file"].as_str().unwrap().to_owned();
        let (image, file) = (name("qcow2"), name("file"));
        Self {
            image: format!("'driver': 'qcow2', 'node-name': '{image}', 'file': '{file}'"),
            file: format!("'driver': 'file', 'node-name': '{file}', 'filename': '{path}'"),
        }
    }

    fn image(&self, more: &str) -> String {
        format!("{{{}{more}}}", self.image)
    }

    fn file(&self, more: &str) -> String {
        format!("{{{}{more}}}", self.file)
    }
}

fn reopen(nodes: &[String]) -> String {
    format!("{{'execute': 'blockdev-reopen', 'arguments': {{'options': [{}]}}}}", nodes.join(", "))
}

fn load(daemon: &Daemon) {
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 5);
    load.steps(500);
    load.flush();
    load.drain();
}

#[test]
fn options_change_any_number_of_times_under_a_guests_load_and_every_byte_stays_right() {
    let mut daemon = serve();
    let mut qmp = daemon.qmp();
    let nodes = Nodes::of(&mut qmp);
    let zeroes = daemon.file("z").display().to_string();
    qmp.succeed(&format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'file', 'node-name': 'z', 'filename': '{zeroes}'}}}}"
    ));
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 7);
    let open_files = thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let mut open_files = Vec::new();
            for change in 0..CHANGES {
                let image = match change % 4 {
                    0 => nodes.image(", 'backing': 'z', 'discard': 'unmap', 'l2-cache-size': 65536"),
                    1 => nodes.image(", 'detect-zeroes': 'on', 'backing': null"),
                    2 => nodes.image(", 'backing': 'z', 'cache-size': 2097152"),
                    _ => nodes.image(", 'backing': null, 'pass-discard-request': true"),
                };
                let direct = change % 3 == 0;
                qmp.succeed(&reopen(&[image, nodes.file(&format!(", 'cache': {{'direct': {direct}}}"))]));
                open_files.push(daemon.open_files());
            }
            open_files
        });
        while !changes.is_finished() {
            load.steps(20);
        }
        changes.join().unwrap()
    });
    load.steps(200);
    load.flush();
    load.settle();
    // Rings and the daemon's own errands have some, now and then.
    let [first, last] = [&open_files[..20], &open_files[CHANGES - 20..]].map(|some| some.iter().max().unwrap());
    assert!(last < &(first + CHANGES / 5), "files stay open: {open_files:?}");
    drop(load);
    drop(device);
    daemon.terminate();
    shell(&daemon, "qemu-img check -q disk");
}

#[test]
fn a_guest_that_writes_keeps_its_node_writable_and_does_not_notice() {
    let daemon = serve();
    let mut qmp = daemon.qmp();
    let nodes = Nodes::of(&mut qmp);
    let mut device = daemon.connect(DeviceOptions::default().with_queues(1, 64));
    let mut load = Load::new(&mut device, 1, 9);
    load.steps(50);
    load.fill();
    let refused = qmp.ask(&reopen(&[nodes.file(", 'read-only': true"), nodes.image(", 'read-only': true")]));
    let text = refused[0]["error"]["desc"].as_str().unwrap();
    assert!(
        text.starts_with("Read-only block node '") && text.ends_with("' cannot support read-write users"),
        "{text}"
    );
    load.steps(50);
    load.flush();
    load.settle();
}

/// What QEMU says of the image's bitmap: whether it is in use.
fn bitmap_in_use(daemon: &Daemon) -> bool {
    shell(daemon, "qemu-img info -U disk").contains("in-use")
}

#[test]
fn a_daemon_killed_after_a_reopen_leaves_an_image_that_is_whole() {
    for writable in [false, true] {
        let mut daemon = serve();
        load(&daemon);
        let mut qmp = daemon.qmp();
        let nodes = Nodes::of(&mut qmp);
        let exports = qmp.succeed("{'execute': 'query-block-exports'}");
        let id = exports.as_array().unwrap()[0]["id"].as_str().unwrap().to_owned();
        qmp.succeed(&format!("{{'execute': 'block-export-del', 'arguments': {{'id': '{id}', 'mode': 'hard'}}}}"));
        wait_until("the end of the export", || {
            qmp.succeed("{'execute': 'query-block-exports'}").as_array().unwrap().is_empty()
        });
        assert!(bitmap_in_use(&daemon), "while it can be written to");
        qmp.succeed(&reopen(&[nodes.image(", 'read-only': true"), nodes.file(", 'read-only': true")]));
        assert!(!bitmap_in_use(&daemon), "stored");
        // Another program may read it now, and trusts it.
        shell(&daemon, "qemu-img check -q disk && qemu-img convert -f qcow2 -O raw disk before");
        if writable {
            let writable = ", 'read-only': false";
            qmp.succeed(&reopen(&[nodes.file(writable), nodes.image(writable)]));
            assert!(bitmap_in_use(&daemon), "it may be written to");
        }
        daemon.kill();
        wait_until("the end of its locks", || {
            Command::new("qemu-img").args(["check", "-q"]).arg(daemon.file("disk")).status().unwrap().success()
        });
        assert_eq!(bitmap_in_use(&daemon), writable);
        shell(&daemon, "qemu-img convert -f qcow2 -O raw disk after && cmp before after");
    }
}
