//! `tidemark ctl SOCKET backup` beside both daemons: what comes to lie in the file, what is left behind, what is said.

use super::process::{Place, QEMU, Running, TIDEMARK, wait_until};
use crate::vhost::guest::Guest;
use qmp_lite::wire::{Value, parse};
use rustix::process::Signal;
use std::fs;
use std::process::{Command, Stdio};
use tidemark_frontend::{DeviceOptions, Request, Status};

const MIB: u64 = 1 << 20;

/// A daemon that serves `disk` as export `disk0` of node `node0`, with two monitors.
struct Disk {
    place: Place,
    _daemon: Running,
}

impl Disk {
    fn serve(program: &str, node: &str) -> Self {
        let place = Place::new();
        let bytes: Vec<u8> = (0..MIB).map(|at| at.to_le_bytes()[1] ^ 0x5a).collect();
        fs::write(place.file("disk"), bytes).unwrap();
        let export = "vhost-user-blk,id=disk0,node-name=node0,writable=on,addr.type=unix,addr.path=blk";
        let mut words = vec!["--blockdev", node, "--export", export];
        for (chardev, id) in
            [("socket,id=c,path=qmp,server=on,wait=off", "c"), ("socket,id=d,path=see,server=on,wait=off", "d")]
        {
            words.extend(["--chardev", chardev, "--monitor", id]);
        }
        let daemon = place.start(program, &words);
        wait_until("the monitor", || place.run(TIDEMARK, &["ctl", "see", "query-version"]).status.success());
        Self { place, _daemon: daemon }
    }

    fn of_file(program: &str) -> Self {
        Self::serve(program, "driver=file,node-name=node0,filename=disk,discard=unmap")
    }

    /// A large disk that takes a second for each request.
    fn slow(program: &str) -> Self {
        Self::serve(program, "driver=null-co,node-name=node0,size=68719476736,latency-ns=1000000000")
    }

    fn guest(&self) -> Guest {
        Guest::at(&self.place.file("blk"), DeviceOptions::default())
    }

    /// What a command returns.
    fn ask(&self, words: &[&str]) -> Value {
        let output = self.place.run(TIDEMARK, &[&["ctl", "see"], words].concat());
        assert!(output.status.success(), "{words:?}: {output:?}");
        parse(&String::from_utf8(output.stdout).unwrap()).unwrap()
    }

    fn add_bitmap(&self, name: &str) {
        self.ask(&["block-dirty-bitmap-add", "node=node0", &format!("name={name}")]);
    }

    /// Bytes that the disk's only bitmap marks.
    fn marked(&self) -> Option<u64> {
        self.nodes().iter().find(|node| node["node-name"] == "node0")?["dirty-bitmaps"][0]["count"].as_u64()
    }

    fn nodes(&self) -> Vec<Value> {
        self.ask(&["query-named-block-nodes", "flat=on"]).as_array().unwrap().clone()
    }

    /// Makes a backup, which has to succeed; returns what is said.
    fn backup(&self, words: &[&str]) -> String {
        let output = self.place.run(TIDEMARK, &[&["ctl", "qmp", "backup"], words].concat());
        assert!(output.status.success(), "{words:?}: {output:?}");
        self.assert_clean();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a backup, which has to fail; returns what is said.
    fn refusal(&self, words: &[&str]) -> String {
        let message = self.place.refusal(&[&["ctl", "qmp", "backup"], words].concat());
        assert_eq!(message.lines().count(), 1, "{message}");
        self.assert_clean();
        message
    }

    /// Nothing of a backup is left in the daemon.
    fn assert_clean(&self) {
        assert_eq!(self.ask(&["query-jobs"]), Value::Array(Vec::new()));
        let names: Vec<_> = self.nodes().iter().map(|node| node["node-name"].clone()).collect();
        assert!(names.iter().all(|name| name.as_str().is_some_and(|name| !name.contains("ctl"))), "{names:?}");
    }

    /// Starts a backup, waits for its job to run, sends a signal; returns exit status and what was said.
    fn interrupted(&self, words: &[&str], signal: Signal) -> (Option<i32>, String) {
        let mut command = Command::new(TIDEMARK);
        command.args(["ctl", "qmp", "backup"]).args(words).current_dir(self.place.path()).stdin(Stdio::null());
        let ctl = Running::spawn(command);
        wait_until("the job", || self.ask(&["query-jobs"])[0]["status"] == "running");
        ctl.signal(signal);
        let (status, said) = ctl.wait();
        self.assert_clean();
        (status.code(), said)
    }

    fn same(&self, file: &str) -> bool {
        fs::read(self.place.file(file)).unwrap() == fs::read(self.place.file("disk")).unwrap()
    }
}

#[test]
fn a_full_backup_makes_the_file_and_incremental_ones_go_onto_copies_of_it() {
    for program in [TIDEMARK, QEMU] {
        let disk = Disk::of_file(program);
        let mut guest = disk.guest();
        disk.add_bitmap("daily");
        let said = disk.backup(&["disk0", "--to", "monday"]);
        let file = disk.place.file("monday");
        assert!(said.starts_with(&format!("disk0: 1.00 MiB copied to '{}' in ", file.display())), "{program}: {said}");
        assert!(disk.same("monday"), "{program}");
        for (day, before) in [("tuesday", "monday"), ("wednesday", "tuesday")] {
            assert_eq!(guest.write(256 << 10, day.repeat(512).as_bytes().get(..512).unwrap()), Status::Ok);
            assert_eq!(guest.run(&Request::Flush), Status::Ok);
            fs::copy(disk.place.file(before), disk.place.file(day)).unwrap();
            assert!(!disk.same(day), "{program}");
            let said = disk.backup(&["node0", "--to", day, "--incremental", "daily"]);
            assert!(said.starts_with("node0: 64.00 KiB copied"), "{program}: {said}");
            assert!(disk.same(day), "{program}");
        }
    }
}

#[test]
fn what_cannot_be_backed_up_is_refused_with_the_way_out() {
    for program in [TIDEMARK, QEMU] {
        let disk = Disk::of_file(program);
        let refused = |words: &[&str], parts: &[&str]| {
            let message = disk.refusal(words);
            assert!(parts.iter().all(|part| message.contains(part)), "{program}: {words:?}: {message}");
            assert!(!disk.place.file("new").exists(), "{program}: {words:?}");
        };
        refused(&["disk7", "--to", "new"], &["there is no disk 'disk7'", "the daemon exports: disk0"]);
        let incremental = ["disk0", "--to", "new", "--incremental", "b"];
        refused(&incremental, &["no bitmap 'b'", "there are none", "block-dirty-bitmap-add node=node0 name=b"]);
        disk.add_bitmap("a");
        refused(&incremental, &["no bitmap 'b'", "there are: a."]);
        disk.add_bitmap("b");
        refused(&incremental, &["'new' does not exist", "cp --reflink=auto PREVIOUS 'new'"]);
        refused(&["disk0", "--to", "no/new"], &["cannot create 'no/new'", "No such file or directory"]);
        refused(&["disk0", "--to", ".", "--overwrite"], &["neither a file nor a block device"]);
        fs::write(disk.place.file("short"), "short").unwrap();
        refused(&["disk0", "--to", "short"], &["'short' exists", "--overwrite"]);
        refused(&["disk0", "--to", "short", "--overwrite"], &["it has 5 bytes, the disk 1048576"]);
        refused(&["disk0", "--to", "short", "--incremental", "b"], &["it has 5 bytes, the disk 1048576"]);
        assert_eq!(fs::read(disk.place.file("short")).unwrap(), b"short");
    }
}

#[test]
fn a_file_that_exists_is_overwritten_only_when_told_to() {
    for program in [TIDEMARK, QEMU] {
        let disk = Disk::of_file(program);
        fs::write(disk.place.file("old"), vec![7; 1 << 20]).unwrap();
        disk.refusal(&["disk0", "--to", "old"]);
        assert!(!disk.same("old"), "{program}");
        disk.backup(&["disk0", "--to", "old", "--overwrite"]);
        assert!(disk.same("old"), "{program}");
    }
}

#[test]
fn a_disk_is_no_target_for_its_own_backup() {
    for program in [TIDEMARK, QEMU] {
        let disk = Disk::of_file(program);
        let before = fs::read(disk.place.file("disk")).unwrap();
        let message = disk.refusal(&["disk0", "--to", "disk", "--overwrite"]);
        assert!(message.contains("lock") && message.contains("is as it was"), "{program}: {message}");
        assert!(fs::read(disk.place.file("disk")).unwrap() == before, "{program}");
    }
}

#[test]
fn a_backup_that_fails_says_why_and_takes_its_file_away() {
    for program in [TIDEMARK, QEMU] {
        let node = "driver=blkdebug,node-name=node0,image.driver=file,image.filename=disk,\
                    inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5";
        let disk = Disk::serve(program, node);
        let message = disk.refusal(&["disk0", "--to", "new"]);
        let parts = ["the backup of 'disk0' failed: Input/output error", "has been removed"];
        assert!(parts.iter().all(|part| message.contains(part)), "{program}: {message}");
        assert!(!disk.place.file("new").exists(), "{program}");
        fs::write(disk.place.file("old"), vec![0; 1 << 20]).unwrap();
        let message = disk.refusal(&["disk0", "--to", "old", "--overwrite"]);
        assert!(message.contains("is not complete, and what it held before is gone"), "{program}: {message}");
        assert!(disk.place.file("old").exists(), "{program}");
    }
}

#[test]
fn ctrl_c_cancels_the_job_and_takes_the_file_away() {
    for program in [TIDEMARK, QEMU] {
        let disk = Disk::slow(program);
        for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let (code, said) = disk.interrupted(&["disk0", "--to", "new"], signal);
            assert_eq!(code, Some(status), "{program}: {said}");
            let gone = format!("tidemark: cancelled; '{}' has been removed\n", disk.place.file("new").display());
            assert_eq!(said, gone, "{program}");
            assert!(!disk.place.file("new").exists(), "{program}");
        }
    }
}

#[test]
fn a_cancelled_incremental_backup_leaves_the_bitmap_as_it_was() {
    for program in [TIDEMARK, QEMU] {
        let disk = Disk::slow(program);
        disk.add_bitmap("daily");
        assert_eq!(disk.guest().write(0, &[1; 512]), Status::Ok);
        assert_eq!(disk.marked(), Some(65536), "{program}");
        fs::File::create(disk.place.file("copy")).unwrap().set_len(64 << 30).unwrap();
        let words = ["disk0", "--to", "copy", "--incremental", "daily"];
        let (code, said) = disk.interrupted(&words, Signal::INT);
        assert_eq!(code, Some(130), "{program}: {said}");
        assert!(said.contains("the same command completes it"), "{program}: {said}");
        assert_eq!(disk.marked(), Some(65536), "{program}");
        disk.backup(&words);
        assert_eq!(disk.marked(), Some(0), "{program}");
    }
}
