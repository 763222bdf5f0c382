//! A backup tool that knows nothing but `x-query-changed-extents` and how to read, beside a guest that writes all the
//! time: its copy is the disk at every point in time, and at the end.
//!
//! It drives the daemon by `tidemark ctl`. It reads points in time from full copies that begin with them, and the last
//! one from the disk.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use qmp_lite::wire::{self, Value};
use tidemark_frontend::DeviceOptions;

use super::daemon::{DISK, Daemon, FILE};
use super::load::{BLOCK, Load};
use crate::cli::process::{TIDEMARK, wait_until};

/// Points in time under load.
const POINTS: u32 = 6;
/// The guest stays below this: 1024 blocks.
const USED: u64 = 1024 * BLOCK as u64;

/// The tool.
struct Tool<'a> {
    daemon: &'a Daemon,
    copy: Vec<u8>,
    /// The point in time that the copy is of.
    since: String,
    /// Bytes it was told of.
    told: u64,
}

/// Runs a command, which has to succeed.
fn ctl(daemon: &Daemon, words: &[&str]) -> Value {
    let mut command = Command::new(TIDEMARK);
    let output = command.arg("ctl").arg(daemon.file("qmp")).args(words).output().unwrap();
    let (text, message) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}: {message}");
    wire::parse(&text).unwrap()
}

fn node(daemon: &Daemon) -> Value {
    let nodes = ctl(daemon, &["query-named-block-nodes", "flat=on"]);
    nodes.as_array().unwrap().iter().find(|node| node["node-name"] == "n").unwrap().clone()
}

/// Makes a point in time: a bitmap `b0`, `b1`, … that begins there, and a full copy of it in a file, which is waited for.
fn copy_point(daemon: &Daemon, number: u32) -> File {
    let path = daemon.file(&format!("point{number}"));
    File::create(&path).unwrap().set_len(DISK).unwrap();
    let target = format!("filename={}", path.display());
    ctl(daemon, &["blockdev-add", "driver=file", "node-name=t", &target]);
    let bitmap = format!(r#"{{"node": "n", "name": "b{number}", "granularity": 4096}}"#);
    let backup = r#"{"job-id": "j", "device": "n", "target": "t", "sync": "full", "auto-dismiss": false}"#;
    let actions = format!(
        r#"{{"actions": [{{"type": "block-dirty-bitmap-add", "data": {bitmap}}},
                         {{"type": "blockdev-backup", "data": {backup}}}]}}"#
    );
    ctl(daemon, &["transaction", &actions]);
    wait_until("the copy", || {
        let jobs = ctl(daemon, &["query-jobs"]);
        assert_eq!(jobs[0].get("error"), None);
        jobs[0]["status"] == "concluded"
    });
    ctl(daemon, &["job-dismiss", "id=j"]);
    ctl(daemon, &["blockdev-del", "node-name=t"]);
    File::open(path).unwrap()
}

impl Tool<'_> {
    /// What has changed, three extents at a time, and the point in time to go on with.
    fn changed(&self) -> (Vec<Range<u64>>, String) {
        let (mut extents, mut next, mut point) = (Vec::new(), Some(0), None);
        let since = format!("since={}", self.since);
        while let Some(offset) = next {
            let offset = format!("offset={offset}");
            let reply = ctl(self.daemon, &["x-query-changed-extents", "node=n", &since, "limit=3", &offset]);
            let number = |extent: &Value, name: &str| extent[name].as_u64().unwrap();
            let told = reply["extents"].as_array().unwrap().iter();
            extents.extend(
                told.map(|extent| number(extent, "offset")..number(extent, "offset") + number(extent, "length")),
            );
            point.get_or_insert_with(|| reply["change-id"].as_str().unwrap().to_owned());
            next = reply.get("next").and_then(Value::as_u64);
        }
        (extents, point.unwrap())
    }

    /// Reads what has changed, and nothing else.
    fn follow(&mut self, source: &File) {
        let (extents, point) = self.changed();
        for extent in extents {
            let place = usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap();
            source.read_exact_at(&mut self.copy[place], extent.start).unwrap();
            self.told += extent.end - extent.start;
            assert!(extent.end <= USED, "nobody writes to {extent:?}");
        }
        self.since = point;
    }

    /// Follows the disk from point to point.
    fn work(&mut self) {
        for number in 1..=POINTS {
            let source = copy_point(self.daemon, number);
            assert_eq!(node(self.daemon)["dirty-bitmaps"][0]["x-change-id"], node(self.daemon)["x-change-id"]);
            self.follow(&source);
            let mut expected = vec![0; self.copy.len()];
            source.read_exact_at(&mut expected, 0).unwrap();
            assert!(self.copy == expected, "the copy of point {number} is another one");
            let last = format!("name=b{}", number - 1);
            ctl(self.daemon, &["block-dirty-bitmap-remove", "node=n", &last]);
        }
    }
}

#[test]
fn a_tool_that_reads_what_has_changed_has_the_disk_at_every_point_in_time_under_load() {
    let daemon = Daemon::with_node(FILE, "");
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 41);
    load.steps(500);
    let source = copy_point(&daemon, 0);
    let mut copy = vec![0; usize::try_from(DISK).unwrap()];
    source.read_exact_at(&mut copy, 0).unwrap();
    let since = node(&daemon)["x-change-id"].as_str().unwrap().to_owned();
    let mut tool = Tool { daemon: &daemon, copy, since, told: 0 };

    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let tool = &mut tool;
        let working = scope.spawn(move || {
            // Also when it panics.
            let _over = Over(over);
            tool.work();
        });
        while !over.load(Ordering::Relaxed) {
            load.steps(4);
            thread::sleep(Duration::from_millis(10));
        }
        working.join().unwrap();
    });
    load.drain();
    tool.follow(&File::open(daemon.file("disk")).unwrap());
    assert!(tool.copy == load.expected(DISK), "the last copy is not the disk");
    assert!(tool.copy == daemon.image());
    println!("{POINTS} points in time, {} requests, {} bytes read", load.completed(), tool.told);
    drop(device);
    daemon.stop();
}

/// Says so when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
