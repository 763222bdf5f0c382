//! Persistent bitmaps under a guest's load: what QEMU finds in the image when the daemon has ended, in order or not.

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon};
use super::load::Load;

/// Bytes per bit, those of a cluster.
const GRANULARITY: u64 = 65536;

/// Runs a line of a shell in the daemon's directory.
fn shell(daemon: &Daemon, script: &str) -> String {
    let directory = daemon.file("disk").parent().map(Path::to_owned).unwrap();
    let output = Command::new("bash").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The daemon over an image with two bitmaps made by QEMU, of which one does not record.
fn serve() -> Daemon {
    Daemon::serve_image(&[], |place| {
        let make = format!(
            "qemu-img create -q -f qcow2 disk {DISK} && qemu-img bitmap --add disk on && \
             qemu-img bitmap --add --disable disk off"
        );
        let made = Command::new("bash").args(["-c", &make]).current_dir(place.path()).status().unwrap();
        assert!(made.success());
    })
}

/// The bitmaps that the image has: name, flags.
fn stored(daemon: &Daemon) -> Vec<(String, bool, bool)> {
    let info = shell(daemon, "qemu-img info --output json -U disk");
    let Some((_, bitmaps)) = info.split_once("\"bitmaps\": [") else { return Vec::new() };
    let told = |bitmap: &str| {
        let (flags, rest) = bitmap.split_once(']').unwrap();
        let (_, name) = rest.split_once("\"name\": \"").unwrap();
        (name.split('"').next().unwrap().to_owned(), flags.contains("in-use"), flags.contains("auto"))
    };
    bitmaps.split("\"flags\": [").skip(1).map(told).collect()
}

/// What a bitmap marks, as QEMU hands it out.
fn marked(daemon: &Daemon, name: &str) -> Vec<Range<u64>> {
    shell(daemon, &format!("qemu-nbd --fork -r -k \"$PWD/nbd\" -B {name} -f qcow2 disk"));
    let options = format!("driver=nbd,server.type=unix,server.path=nbd,x-dirty-bitmap=qemu:dirty-bitmap:{name}");
    let map = shell(daemon, &format!("qemu-img map --output json --image-opts {options}"));
    let number = |line: &str, name: &str| {
        let (_, after) = line.split_once(&format!("\"{name}\": ")).unwrap();
        after.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    let mut marked: Vec<Range<u64>> = Vec::new();
    // What is dirty is shown as what is no data.
    for line in map.lines().filter(|line| line.contains("\"data\": false")) {
        let range = number(line, "start")..number(line, "start") + number(line, "length");
        match marked.last_mut().filter(|last| last.end == range.start) {
            Some(last) => last.end = range.end,
            None => marked.push(range),
        }
    }
    marked
}

/// Blocks in which the image's content is not zero: what the guest has written, which is never zeroes here.
fn written(daemon: &Daemon) -> Vec<Range<u64>> {
    shell(daemon, "qemu-img convert -f qcow2 -O raw disk content");
    let content = std::fs::read(daemon.file("content")).unwrap();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (block, bytes) in (0..).zip(content.chunks(usize::try_from(GRANULARITY).unwrap())) {
        if bytes.iter().any(|byte| *byte != 0) {
            let range = block * GRANULARITY..(block + 1) * GRANULARITY;
            match runs.last_mut().filter(|last| last.end == range.start) {
                Some(last) => last.end = range.end,
                None => runs.push(range),
            }
        }
    }
    runs
}

fn flags(name: &str, in_use: bool, auto: bool) -> (String, bool, bool) {
    (name.to_owned(), in_use, auto)
}

/// The name of the image's node.
fn node(daemon: &Daemon) -> String {
    let nodes = daemon.qmp().succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    let node = nodes.as_array().unwrap().iter().find(|node| node["drv"] == "qcow2").unwrap();
    node["node-name"].as_str().unwrap().to_owned()
}

/// Writes of a guest in a few places, none twice.
fn load(daemon: &Daemon, blocks: u64) {
    let mut device = daemon.connect(DeviceOptions::default().with_queues(1, 64));
    let mut load = Load::new(&mut device, 1, blocks);
    load.steps(blocks);
    load.flush();
    load.drain();
}

#[test]
fn what_a_guest_writes_is_marked_in_the_image_when_the_daemon_ends_in_order() {
    let mut daemon = serve();
    load(&daemon, 12);
    let add = format!(
        "{{'execute': 'block-dirty-bitmap-add', 'arguments': {{'node': '{}', 'name': 'late', 'persistent': true}}}}",
        node(&daemon)
    );
    daemon.qmp().succeed(&add);
    let in_use = [flags("on", true, true), flags("off", true, false), flags("late", true, true)];
    assert_eq!(stored(&daemon), in_use, "while it runs");
    daemon.terminate();
    assert_eq!(stored(&daemon), [flags("on", false, true), flags("off", false, false), flags("late", false, true)]);
    shell(&daemon, "qemu-img check -q disk");
    let on = marked(&daemon, "on");
    for run in written(&daemon) {
        assert!(on.iter().any(|marked| marked.start <= run.start && run.end <= marked.end), "{run:?} in {on:?}");
    }
    assert!(!on.is_empty() && on != vec![Range { start: 0, end: DISK }], "{on:?}");
    assert_eq!((marked(&daemon, "off"), marked(&daemon, "late")), (vec![], vec![]));
}

#[test]
fn a_killed_daemon_leaves_bitmaps_that_no_other_program_believes_and_the_next_one_goes_on_with() {
    let mut daemon = serve();
    load(&daemon, 12);
    daemon.kill();
    assert_eq!(stored(&daemon), [flags("on", true, true), flags("off", true, false)]);
    daemon.restart();
    daemon.wait_ready();
    // Its monitor is there before its disk.
    daemon.wait_logged("serving", 2);
    let name = node(&daemon);
    let of = |name: &str, bitmap: &str| format!("{{'node': '{name}', 'name': '{bitmap}'}}");
    let remove = format!("{{'execute': 'block-dirty-bitmap-remove', 'arguments': {}}}", of(&name, "on"));
    daemon.qmp().succeed(&remove);
    assert_eq!(stored(&daemon), [flags("off", true, false)], "gone at once");
    load(&daemon, 5);
    daemon.terminate();
    assert_eq!(stored(&daemon), [flags("off", false, false)]);
    // What the killed one had taken ahead leaks, at most.
    shell(&daemon, "qemu-img check -q disk || test $? -eq 3");
}
