//! Points in time for backup tools: QEMU's tools read over NBD what a disk was, while its guest, another NBD client, goes
//! on writing.
//!
//! Knows the transaction action `x-fleece` and the way that QEMU has too, an overlay filled by a backup without a sync.

mod disks;
mod filter;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use qmp_lite::wire::Value;

use super::daemon::{Client, Daemon, TIDEMARK, TIMEOUT};
use super::schema::list;

/// What the whole disk holds at first.
const OLD: u8 = 0x11;
/// What is changed after the bitmap began.
const CHANGED: u8 = 0x22;
/// What is written after the point in time.
const NEW: u8 = 0x33;
const MIB: u64 = 1 << 20;
/// A block of the bitmap.
const BLOCK: u64 = 65536;

/// A daemon with a disk `d` of 1 MiB and a bitmap `b` that marks what is at 2 to 4 blocks, and room for copies, `t`.
struct Site {
    daemon: Daemon,
    client: Client,
}

impl Site {
    fn new() -> Self {
        let mut daemon = Daemon::start(TIDEMARK, &[]);
        for name in ["d", "t"] {
            File::create(daemon.dir().join(name)).unwrap().set_len(MIB).unwrap();
        }
        let mut client = daemon.negotiate();
        for name in ["d", "t"] {
            let file = format!("'filename': 'DIR/{name}', 'discard': 'unmap'");
            client.succeed(&run("blockdev-add", &format!("'driver': 'file', 'node-name': '{name}', {file}")));
        }
        client.succeed(&run("nbd-server-start", "'addr': {'type': 'unix', 'data': {'path': 'DIR/nbd'}}"));
        client.succeed(&run("block-export-add", "'type': 'nbd', 'id': 'guest', 'node-name': 'd', 'writable': true"));
        let mut site = Self { daemon, client };
        site.write("d", 0, MIB, OLD);
        site.do_("block-dirty-bitmap-add", "'node': 'd', 'name': 'b'");
        site.write("d", 2 * BLOCK, 2 * BLOCK, CHANGED);
        site
    }

    fn do_(&mut self, command: &str, arguments: &str) {
        self.client.succeed(&run(command, arguments));
    }

    /// Begins the point in time `f`, exported as such.
    fn fleece(&mut self, more: &str) {
        let fleece = fleece(more);
        self.do_("transaction", &format!("'actions': [{fleece}]"));
    }

    /// What a program says about an export, which has to succeed.
    fn tool(&self, program: &str, arguments: &[&str], export: &str) -> String {
        output(self.daemon.dir(), program, arguments, export).unwrap_or_else(|text| panic!("{program}: {text}"))
    }

    fn io(&self, export: &str, command: &str) -> Result<String, String> {
        io(self.daemon.dir(), export, command)
    }

    fn write(&self, export: &str, offset: u64, len: u64, byte: u8) {
        self.io(export, &format!("write -P {byte} {offset} {len}")).unwrap();
    }

    fn holds(&self, export: &str, offset: u64, len: u64, byte: u8) {
        self.io(export, &format!("read -P {byte} {offset} {len}")).unwrap();
    }

    /// The point in time is what the disk was then.
    fn holds_the_past(&self, export: &str) {
        self.holds(export, 0, 2 * BLOCK, OLD);
        self.holds(export, 2 * BLOCK, 2 * BLOCK, CHANGED);
        self.holds(export, 4 * BLOCK, MIB - 4 * BLOCK, OLD);
    }

    /// Bytes that the disk's bitmap marks, once it is free.
    fn marked(&mut self) -> u64 {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let nodes = self.client.succeed("{'execute': 'query-named-block-nodes'}");
            let disk = list(&nodes).iter().find(|node| node["node-name"] == "d").expect("the disk").clone();
            let bitmap = &disk["dirty-bitmaps"][0];
            if bitmap["busy"] == false {
                return bitmap["count"].as_u64().expect("a count");
            }
            assert!(Instant::now() < deadline, "the bitmap stays in use");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Nothing of the point in time is left, in the end.
    fn is_over(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        let left = |client: &mut Client| {
            let nodes = client.succeed("{'execute': 'query-named-block-nodes'}");
            let exports = client.succeed("{'execute': 'query-block-exports'}");
            let jobs = client.succeed("{'execute': 'query-jobs'}");
            (list(&nodes).len(), list(&exports).len(), list(&jobs).len())
        };
        while left(&mut self.client) != (2, 1, 0) {
            assert!(Instant::now() < deadline, "{:?} is left", left(&mut self.client));
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn run(command: &str, arguments: &str) -> String {
    format!("{{'execute': '{command}', 'arguments': {{{arguments}}}}}")
}

fn fleece(more: &str) -> String {
    let nodes = "'node': 'd', 'target': 't', 'snapshot-node-name': 'f'";
    format!("{{'type': 'x-fleece', 'data': {{{nodes}, 'bitmap': 'b', 'export': {{'id': 'f'}} {more}}}}}")
}

fn output(dir: &Path, program: &str, arguments: &[&str], export: &str) -> Result<String, String> {
    let image = format!("driver=nbd,server.type=unix,server.path={},export={export}", dir.join("nbd").display());
    let image = arguments
        .iter()
        .find_map(|text| text.strip_prefix("x-dirty-bitmap="))
        .map_or(image.clone(), |name| format!("{image},x-dirty-bitmap=qemu:dirty-bitmap:{name}"));
    let arguments = arguments.iter().filter(|text| !text.starts_with("x-dirty-bitmap="));
    let output = Command::new(program).args(arguments).arg(image).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // qemu-io prints what it finds wrong, and has failed by status only if it could not be done.
    let failed = !output.status.success() || text.contains("verification failed") || text.contains("failed:");
    if failed { Err(text + &String::from_utf8_lossy(&output.stderr)) } else { Ok(text) }
}

fn io(dir: &Path, export: &str, command: &str) -> Result<String, String> {
    let mut arguments = vec!["--image-opts", "-d", "unmap", "-c", command];
    // Who only reads asks for no more.
    arguments.extend(command.starts_with("read").then_some("-r"));
    output(dir, "qemu-io", &arguments, export)
}

/// Where a map of `qemu-img` says that a bitmap is dirty.
fn dirty(map: &str) -> Vec<(u64, u64)> {
    let map: Value = qmp_lite::wire::parse(map).expect("JSON");
    let dirty = list(&map).iter().filter(|extent| extent["data"] == false);
    dirty.map(|extent| (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap())).collect()
}

#[test]
fn a_point_in_time_is_read_with_its_bitmap_while_the_guest_overwrites_the_disk() {
    let mut site = Site::new();
    site.fleece("");
    site.write("d", 0, MIB, NEW);
    site.holds_the_past("f");
    let map = site.tool("qemu-img", &["map", "--output=json", "x-dirty-bitmap=b", "--image-opts"], "f");
    assert_eq!(dirty(&map), [(2 * BLOCK, 2 * BLOCK)]);
    site.do_("job-complete", "'id': 'f'");
    site.is_over();
    assert_eq!(site.marked(), MIB, "it marks what was written since the point in time");
}

#[test]
fn what_was_fetched_is_marked_no_more_and_what_was_not_is_marked_again() {
    for (mode, trim, end, marked) in [
        ("on-success", false, ("job-complete", "'id': 'f'"), 1),
        ("on-success", false, ("job-cancel", "'id': 'f'"), 3),
        ("on-success", true, ("job-cancel", "'id': 'f'"), 3),
        ("on-success", true, ("block-export-del", "'id': 'f', 'mode': 'hard'"), 3),
        ("always", true, ("block-export-del", "'id': 'f', 'mode': 'hard'"), 2),
        ("always", false, ("job-cancel", "'id': 'f'"), 3),
        ("always", false, ("job-complete", "'id': 'f'"), 1),
        ("never", true, ("job-complete", "'id': 'f'"), 3),
    ] {
        let mut site = Site::new();
        site.fleece(&format!(", 'bitmap-mode': '{mode}'"));
        site.write("d", 8 * BLOCK, BLOCK, NEW);
        if trim {
            site.io("f", &format!("discard {} {BLOCK}", 2 * BLOCK)).unwrap();
            assert!(site.io("f", &format!("read {} {BLOCK}", 2 * BLOCK)).is_err(), "it is kept no longer");
            site.holds("f", 3 * BLOCK, BLOCK, CHANGED);
        }
        site.do_(end.0, end.1);
        site.is_over();
        assert_eq!(site.marked(), marked * BLOCK, "{mode}, trim: {trim}, {}", end.0);
    }
}

#[test]
fn a_point_in_time_ends_with_its_last_client_if_that_is_asked_for() {
    let mut site = Site::new();
    let fleece = fleece("").replace("'id': 'f'", "'id': 'f', 'until-unused': true");
    site.do_("transaction", &format!("'actions': [{fleece}]"));
    site.write("d", 8 * BLOCK, BLOCK, NEW);
    site.holds("f", 2 * BLOCK, 2 * BLOCK, CHANGED);
    site.is_over();
    assert_eq!(site.marked(), 3 * BLOCK, "a client that has left has not said that it has anything");
}

#[test]
fn with_sync_bitmap_only_what_is_marked_is_kept() {
    let mut site = Site::new();
    site.fleece(", 'sync': 'bitmap'");
    site.write("d", 0, MIB, NEW);
    site.holds("f", 2 * BLOCK, 2 * BLOCK, CHANGED);
    assert!(site.io("f", "read 0 512").is_err());
    let copied = std::fs::read(site.daemon.dir().join("t")).unwrap();
    let kept = copied.iter().filter(|byte| **byte != 0).count();
    assert_eq!(kept as u64, 2 * BLOCK, "nothing else is copied");
}

#[test]
fn what_keeps_an_export_from_being_made_is_said_before_anything_is_done() {
    let mut site = Site::new();
    let exported = fleece("").replace("'id': 'f'", "'id': 'guest'");
    let named = fleece("").replace("'id': 'f'", "'id': 'f', 'name': 'd'");
    let other = fleece("").replace("'f'", "'g'").replace("'target': 't'", "'target': 'd'");
    let same =
        format!("{}, {}", fleece(""), fleece("").replace("'snapshot-node-name': 'f'", "'snapshot-node-name': 'g'"));
    for (actions, text) in [
        (exported.as_str(), "Block export id 'guest' is already in use"),
        (&named, "NBD server already has export named 'd'"),
        (&same, "Block export id 'f' is already in use"),
        (&other, "Source and target cannot be the same"),
        (&fleece("").replace("'bitmap': 'b'", "'bitmap': 'zz'"), "Dirty bitmap 'zz' not found"),
        (&fleece("").replace("'node': 'd'", "'node': 'zz'"), "Cannot find device='zz' nor node-name='zz'"),
        (&format!("{}, {{'type': 'abort', 'data': {{}}}}", fleece("")), "Transaction aborted using Abort action"),
    ] {
        let replies = site.client.ask(&run("transaction", &format!("'actions': [{actions}]")));
        assert_eq!(replies[0]["error"]["desc"], text);
        site.is_over();
        assert_eq!(site.marked(), 2 * BLOCK, "{text}");
    }
    site.do_("nbd-server-stop", "");
    let replies = site.client.ask(&run("transaction", &format!("'actions': [{}]", fleece(""))));
    assert_eq!(replies[0]["error"]["desc"], "NBD server not running");
    assert_eq!(site.marked(), 2 * BLOCK);
}

#[test]
fn a_guest_goes_on_when_there_is_no_room_for_copies_and_the_point_in_time_ends_by_itself() {
    let mut site = Site::new();
    let debug = "'driver': 'blkdebug', 'node-name': 'full', 'image': 't', 'inject-error': [{'event': 'none', \
                 'iotype': 'write', 'errno': 28}]";
    site.do_("blockdev-add", debug);
    let fleece = fleece("").replace("'target': 't'", "'target': 'full'");
    site.do_("transaction", &format!("'actions': [{fleece}]"));
    site.write("d", 2 * BLOCK, BLOCK, NEW);
    assert!(site.io("f", "read 0 512").is_err(), "what is lost is not made up");
    assert_eq!(site.marked(), 2 * BLOCK, "and what was marked is marked again");
}

#[test]
fn an_overlay_that_a_backup_fills_shows_the_past_even_if_it_is_read_while_the_disk_is_written() {
    let mut site = Site::new();
    let overlay = site.daemon.dir().join("overlay");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&overlay).arg("1M").status();
    assert!(made.unwrap().success());
    // What is read through it comes late: what is written meanwhile comes first.
    site.do_(
        "blockdev-add",
        "'driver': 'blkdebug', 'node-name': 'slow', 'image': 'd', 'x-delay-ns': {'read': 400000000}",
    );
    let file = "'file': {'driver': 'file', 'filename': 'DIR/overlay'}";
    site.do_("blockdev-add", &format!("'driver': 'qcow2', 'node-name': 'o', {file}, 'backing': 'slow'"));
    let backup = "{'type': 'blockdev-backup', 'data': {'job-id': 'j', 'device': 'd', 'target': 'o', 'sync': 'none'}}";
    site.do_("transaction", &format!("'actions': [{backup}]"));
    site.do_("block-export-add", "'type': 'nbd', 'id': 'o', 'node-name': 'o'");
    let dir = site.daemon.dir().to_owned();
    let reader = thread::spawn(move || io(&dir, "o", &format!("read -P {CHANGED} {} {}", 2 * BLOCK, 2 * BLOCK)));
    // Where its read comes after the write, nothing is tried and nothing fails.
    thread::sleep(Duration::from_millis(200));
    site.write("d", 0, MIB, NEW);
    reader.join().unwrap().unwrap();
    site.holds_the_past("o");
}
