//! Persistent bitmaps that survive crashes: what they are when the daemon was killed, and who is believed about them.
//!
//! The node is `n`, its image `disk`; each test says how the image is made, what its bitmaps survive, and what happens to
//! it between two daemons.

mod above;
mod closed;
mod durable;
mod foreign;
mod kill;
mod offline;
mod places;
mod room;

use std::path::Path;
use std::process::Command;

use qmp_lite::wire::Value;
use tidemark_frontend::Status;

use super::daemon::{DISK, Daemon};
use super::guest::Guest;
use crate::cli::process::wait_until;
use crate::qmp::daemon::Client;

/// Bytes of a bit where nothing else is said.
const GRANULARITY: u64 = 65536;
const MIB: u64 = 1 << 20;
/// Makes `disk` with three bitmaps: two that record, and one that marks 64 KiB and does not.
const THREE: &str = "qemu-img bitmap --add --disable disk still; qemu-img bitmap --enable disk still
    qemu-io -f qcow2 -c 'write -q -z 20M 64k' disk; qemu-img bitmap --disable disk still
    qemu-img bitmap --add disk daily; qemu-img bitmap --add -g 4096 disk weekly";
/// A plain image.
const PLAIN: &str = "qemu-img create -q -f qcow2 disk 32M";
/// An image of a raw disk, made by `tidemark track`, whose path is `$TIDEMARK`.
const RAW: &str = "rm disk; truncate -s 32M raw; \"$TIDEMARK\" track raw --meta disk --bitmap none
    qemu-img bitmap --remove disk none";
/// Why nobody believes a bitmap.
const INCONSISTENT: &str = "inconsistent";

/// What queries say of a bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bitmap {
    name: String,
    granularity: u64,
    recording: bool,
    inconsistent: bool,
    count: u64,
}

/// Options of the node.
fn node(more: &str) -> String {
    format!("driver=qcow2,node-name=n,discard=unmap,file.driver=file,file.filename=disk{more}")
}

/// The daemon over an image that a script makes.
fn serve(more: &str, script: &str) -> Daemon {
    Daemon::with_image(&node(more), |place| drop(run(place.path(), script)))
}

/// Runs a script in a directory; it has to succeed.
fn run(directory: &Path, script: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-ec", script]).env("TIDEMARK", crate::cli::process::TIDEMARK).current_dir(directory);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a script where the image is.
fn shell(daemon: &Daemon, script: &str) -> String {
    run(daemon.file("disk").parent().unwrap(), script)
}

/// The bitmaps of the node, in the order of their names.
fn bitmaps(client: &mut Client) -> Vec<Bitmap> {
    bitmaps_of(client, "n")
}

fn bitmaps_of(client: &mut Client, name: &str) -> Vec<Bitmap> {
    let nodes = client.succeed("{'execute': 'query-named-block-nodes', 'arguments': {'flat': true}}");
    let node = nodes.as_array().unwrap().iter().find(|node| node["node-name"] == name).unwrap();
    let of = |bitmap: &Value| Bitmap {
        name: bitmap["name"].as_str().unwrap().to_owned(),
        granularity: bitmap["granularity"].as_u64().unwrap(),
        recording: bitmap["recording"] == true,
        inconsistent: bitmap["inconsistent"] == true,
        count: bitmap["count"].as_u64().unwrap(),
    };
    let list = node.get("dirty-bitmaps").and_then(Value::as_array);
    let mut bitmaps: Vec<Bitmap> = list.into_iter().flatten().map(of).collect();
    bitmaps.sort_by(|one, other| one.name.cmp(&other.name));
    bitmaps
}

/// Starts the daemon again after its end.
fn restart(daemon: &mut Daemon) {
    daemon.restart();
    daemon.wait_ready();
}

/// Kills the daemon and waits until what it had sent to the image is there: others may have it then.
fn kill(daemon: &mut Daemon) {
    daemon.kill();
    let directory = daemon.file("disk").parent().unwrap().to_owned();
    let look = || Command::new("qemu-img").args(["info", "disk"]).current_dir(&directory).output().unwrap();
    wait_until("the locks of a killed daemon", || !String::from_utf8_lossy(&look().stderr).contains("lock"));
}

/// Kills the daemon and starts another one.
fn crash(daemon: &mut Daemon) {
    daemon.kill();
    restart(daemon);
}

/// Writes of a guest to these places, each of 4 KiB.
fn write(daemon: &Daemon, places: &[u64]) {
    let mut guest = Guest::new(daemon);
    for offset in places {
        assert_eq!(guest.write(*offset, &[7; 4096]), Status::Ok, "{offset}");
    }
}

/// A backup job with these members, on to `target`, which is `disk` as it was. Waits for its end.
fn backup(client: &mut Client, target: &str, more: &str) {
    let add = format!(
        "{{'execute': 'blockdev-add', 'arguments': {{'driver': 'file', 'node-name': 't', 'filename': 'DIR/{target}'}}}}"
    );
    client.succeed(&add);
    let start = format!(
        "{{'execute': 'blockdev-backup', 'arguments': {{'job-id': 'j', 'device': 'n', 'target': 't', {more}}}}}"
    );
    let ended = completed(client);
    client.succeed(&start);
    wait_until("the end of a backup", || {
        client.succeed("{'execute': 'query-version'}");
        completed(client) > ended
    });
    let last = client.events().iter().rfind(|event| event["event"] == "BLOCK_JOB_COMPLETED").unwrap();
    assert_eq!(last["data"].get("error"), None, "{last}");
    client.succeed("{'execute': 'blockdev-del', 'arguments': {'node-name': 't'}}");
}

fn completed(client: &Client) -> usize {
    client.events().iter().filter(|event| event["event"] == "BLOCK_JOB_COMPLETED").count()
}

/// Has QEMU look at an image that was left in order: it is sound, its bitmaps are to be believed, and it opens it. What
/// daemons had taken ahead that were killed before is leaked at most.
fn check_left_in_order(daemon: &Daemon, names: &[&str]) {
    shell(daemon, "qemu-img check -q disk || test $? -eq 3");
    let info = shell(daemon, "qemu-img info disk");
    assert!(!info.contains("in-use"), "{info}");
    let told: Vec<&str> = info.lines().filter_map(|line| line.trim().strip_prefix("name: ")).collect();
    assert_eq!(told, names, "{info}");
    assert!(!daemon.file("disk.journal").exists(), "a journal that nobody needs");
    shell(daemon, "qemu-io -f qcow2 -c 'read -q 0 32M' disk");
}
