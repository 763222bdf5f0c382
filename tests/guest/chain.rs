//! Snapshot, stream, commit, mirror and pivot one after the other under a mounted file system that is written to without a
//! pause: the guest notices nothing, and after each of them the images are sound and hold the whole file system.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::backend::{Backend, Disk, MIB, NODE, Storage};
use crate::guest::Guest;
use crate::image;
use crate::machine::{Boot, Device};
use crate::qmp::Qmp;
use crate::restore::file_system_tool;

/// Size of the disk in bytes.
const LEN: u64 = 64 * MIB;
/// Time for anything the guest does beside its load.
const SOON: Duration = Duration::from_secs(60);

/// Files in the file system, each read back, until somebody stops it.
const LOAD: &str = "while [ ! -e /tmp/stop ]; do fio --name=load --directory=/mnt --ioengine=libaio --direct=1 \
     --iodepth=8 --rw=randwrite --bsrange=1k-64k --size=12M --randrepeat=0 --verify=crc32c --verify_fatal=1 \
     --verify_backlog=64 || exit 1; done";

/// Runs a tool of QEMU's; its status and what it said.
fn qemu(program: &'static str, arguments: &[&str], directory: &Path) -> (Option<i32>, String) {
    let output = Command::new(image::program(program)).args(arguments).current_dir(directory).output();
    let output = output.expect("it ran a moment ago");
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    (output.status.code(), text)
}

/// The disk and its images.
struct Chain {
    backend: Backend,
    directory: PathBuf,
}

impl Chain {
    fn qmp(&mut self) -> Qmp {
        self.backend.qmp()
    }

    /// Puts an image of this name on top of a node.
    fn snapshot(&mut self, node: &str, name: &str) {
        let file = self.directory.join(name);
        let arguments = format!(
            r#"{{"node-name": "{node}", "snapshot-file": "{}", "snapshot-node-name": "{name}"}}"#,
            file.display()
        );
        self.qmp().execute("blockdev-snapshot-sync", &arguments);
    }

    /// Runs a job to its end; one that gets ready is completed.
    fn job(&mut self, command: &str, arguments: &str, completes: bool) {
        let mut qmp = self.qmp();
        qmp.execute(command, &format!(r#"{{"job-id": "j", {arguments}}}"#));
        if completes {
            qmp.wait_event(&["\"BLOCK_JOB_READY\"", "\"j\""]);
            qmp.execute("block-job-complete", r#"{"device": "j"}"#);
        }
        let end = qmp.wait_event(&["\"BLOCK_JOB_COMPLETED\"", "\"j\""]);
        assert!(!end.contains("\"error\""), "{command} failed: {end}");
        qmp.wait_event(&["\"JOB_STATUS_CHANGE\"", "\"j\"", "\"null\""]);
    }

    fn close(&mut self, node: &str) {
        self.qmp().execute("blockdev-del", &format!(r#"{{"node-name": "{node}"}}"#));
    }

    /// A snapshot's image is closed as soon as nobody uses it.
    fn has_gone(&mut self, node: &str) {
        let nodes = self.qmp().execute("query-named-block-nodes", r#"{"flat": true}"#);
        assert!(!nodes.contains(&format!("\"{node}\"")), "{nodes}");
    }

    /// While the guest's file system stands still: the image on top is sound, as QEMU finds, and with what is below it
    /// holds the file system.
    fn check(&self, guest: &mut Guest, top: &str) {
        guest.run("sync && fsfreeze --freeze /mnt");
        let (status, text) = qemu("qemu-img", &["check", "-U", "-f", "qcow2", top], &self.directory);
        // Clusters that were taken ahead are in no table yet.
        assert!(matches!(status, Some(0 | 3)), "{top}: {text}");
        let (status, text) =
            qemu("qemu-img", &["convert", "-U", "-f", "qcow2", "-O", "raw", top, "now.raw"], &self.directory);
        assert_eq!(status, Some(0), "{top}: {text}");
        guest.run("fsfreeze --unfreeze /mnt");
        let (status, text) = file_system_tool("e2fsck", &["-fn"], &self.directory.join("now.raw"));
        assert_eq!(status, 0, "{top}:\n{text}");
    }
}

#[test]
fn a_file_system_goes_through_snapshots_streams_commits_mirrors_and_pivots_without_noticing() {
    let disk = Disk { storage: Storage::Qcow2, ..Disk::new(LEN) };
    let backend = Backend::start_with(disk, |top, len| {
        let directory = top.parent().expect("an image is in a directory");
        let len = len.to_string();
        let (status, text) = qemu("qemu-img", &["create", "-q", "-f", "qcow2", "image", &len], directory);
        assert_eq!(status, Some(0), "{text}");
        let (status, text) = qemu("qemu-img", &["create", "-q", "-f", "qcow2", "m", &len], directory);
        assert_eq!(status, Some(0), "{text}");
    });
    let directory = backend.image().parent().expect("an image is in a directory").to_owned();
    let mut guest = Guest::boot(1, Boot::Kernel, &backend, Device::default());
    let mut chain = Chain { backend, directory };
    guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/b");
    guest.spawn(LOAD);
    guest.until(SOON, "[ -e /mnt/load.0.0 ]");

    chain.snapshot(NODE, "s1");
    chain.check(&mut guest, "s1");
    chain.snapshot("s1", "s2");
    chain.job("block-stream", &format!(r#""device": "s2", "base-node": "{NODE}""#), false);
    chain.check(&mut guest, "s2");
    chain.has_gone("s1");
    chain.snapshot("s2", "s3");
    chain.job("block-commit", &format!(r#""device": "s3", "top-node": "s2", "base-node": "{NODE}""#), false);
    chain.check(&mut guest, "s3");
    chain.has_gone("s2");
    let m = chain.directory.join("m");
    let file = format!(r#"{{"driver": "file", "filename": "{}"}}"#, m.display());
    chain.qmp().execute("blockdev-add", &format!(r#"{{"driver": "qcow2", "node-name": "m", "file": {file}}}"#));
    chain.job("blockdev-mirror", r#""device": "s3", "target": "m", "sync": "full""#, true);
    chain.check(&mut guest, "m");
    chain.has_gone("s3");
    chain.close(NODE);
    chain.snapshot("m", "s4");
    chain.job("block-commit", r#""device": "s4""#, true);
    chain.check(&mut guest, "m");
    chain.has_gone("s4");
    chain.snapshot("m", "s5");
    chain.snapshot("s5", "s6");
    chain.job("block-stream", r#""device": "s6""#, false);
    chain.check(&mut guest, "s6");
    chain.has_gone("s5");
    chain.close("m");

    guest.run("cmp /bin/busybox /mnt/b && touch /tmp/stop");
    guest.join(SOON);
    guest.run("umount /mnt && e2fsck -fn /dev/vda");
    guest.power_off();
    let (directory, kept) = (chain.directory.clone(), chain.backend.keep());
    let (status, text) = qemu("qemu-img", &["check", "-f", "qcow2", "s6"], &directory);
    assert!(status == Some(0) && text.contains("No errors were found on the image."), "{text}");
    let (status, text) = qemu("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "s6", "last.raw"], &directory);
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = file_system_tool("e2fsck", &["-fn"], &directory.join("last.raw"));
    assert_eq!(status, 0, "{text}");
    drop(kept);
}
