//! A mounted file system is backed up while it is written without a pause: fully once, then what has
//! changed, each onto a copy of the restore before. A restore has to be what a loss of power at that
//! moment would have left: a journal to replay and nothing to repair, every file that had been synced
//! before, none that was made after.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::backend::{Backend, Disk, MIB, NODE};
use crate::guest::Guest;
use crate::machine::{Boot, Device};
use crate::restore::{Restore, Sync, assert_equal, file_system_tool, track, transaction};

/// Size of the disk in bytes.
const LEN: u64 = 64 * MIB;

/// Bytes per second: no backup ends before the guest has written some more.
const SLOWLY: u64 = MIB / 4;

/// The guest writes at least this often between two points in time, and a fifth of it during a backup.
const MANY: u64 = 150;

/// The guest has to do so within this time, on a machine that has other things to do as well.
const SOON: Duration = Duration::from_secs(60);

/// Writes files of a content that is known from their number, each synced before the next begins, and
/// notes the number before and after; beside it fio, which reads back what it writes.
fn load() -> String {
    let random_writes = "while [ ! -e /tmp/stop ]; do fio --name=load --directory=/mnt --ioengine=libaio --direct=1 \
         --iodepth=8 --rw=randwrite --bsrange=1k-32k --size=8M --randrepeat=0 --verify=crc32c --verify_fatal=1 \
         --verify_backlog=64 || exit 1; done";
    let files = "n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); echo $n >>/tmp/begun; \
         yes file-$n | head -c $((n * 997 % 20000 + 1)) >/tmp/next; \
         dd if=/tmp/next of=/mnt/files/$n bs=32k conv=fsync || exit 1; echo $n >>/tmp/synced; done";
    format!("({random_writes}) & ({files}) && wait $!")
}

/// What the load writes into file number `number`.
fn content(number: u64) -> Vec<u8> {
    let len = number * 997 % 20_000 + 1;
    let line = format!("file-{number}\n");
    line.bytes().cycle().take(usize::try_from(len).expect("files are small")).collect()
}

/// How many files the guest had synced, or begun with.
fn files(guest: &mut Guest, which: &str) -> u64 {
    guest.number(&format!("wc -l </tmp/{which}"))
}

/// Waits until the guest's disk has completed `count` more writes.
fn writes(guest: &mut Guest, count: u64) {
    let completed = "awk '{ print $5 }' /sys/block/vda/stat";
    let before = guest.number(completed);
    guest.until(SOON, &format!("[ $({completed}) -gt {} ]", before + count));
}

/// A restore, and which of the guest's files have to be in it and may be in it.
struct Point {
    restore: Restore,
    synced: u64,
    begun: u64,
}

impl Point {
    /// Takes one, the backup of which is complete no sooner than the guest has written some more.
    fn take(guest: &mut Guest, backend: &mut Backend, restore: Restore, actions: &[String]) -> Self {
        let mut qmp = backend.qmp();
        restore.open(&mut qmp);
        writes(guest, MANY);
        let synced = files(guest, "synced");
        transaction(&mut qmp, actions, false);
        let begun = files(guest, "begun");
        writes(guest, MANY / 5);
        restore.hurry(&mut qmp);
        restore.wait(&mut qmp);
        // There is a file that must not be in the restore.
        guest.until(SOON, &format!("[ $(wc -l </tmp/synced) -gt {begun} ]"));
        println!("{}: {synced} to {begun} files", restore.file().display());
        Self { restore, synced, begun }
    }

    /// Asserts what a loss of power would have left, on a copy, which is repaired.
    fn assert_as_after_loss_of_power(&self) {
        let copy = self.restore.copy("powerless");
        let (status, text) = file_system_tool("e2fsck", &["-fy", "-E", "no_optimize_extents"], copy.file());
        assert!(text.contains("recovering journal"), "a mounted file system has a journal to replay:\n{text}");
        assert!(status <= 1 && only_totals(&text), "more to repair than the journal does ({status}):\n{text}");
        let (status, text) = file_system_tool("e2fsck", &["-fn"], copy.file());
        assert_eq!(status, 0, "damaged after the repair:\n{text}");
        self.assert_files(copy.file());
    }

    /// Asserts that the files are there with their content in the file system of an image.
    fn assert_files(&self, image: &Path) {
        let directory = tempfile::tempdir().expect("a temporary directory can be created");
        let dump = format!("rdump /files {}", directory.path().display());
        let (status, text) = file_system_tool("debugfs", &["-R", &dump], image);
        assert_eq!(status, 0, "the files cannot be read:\n{text}");
        for number in 1..=self.synced {
            let file = fs::read(directory.path().join(format!("files/{number}")));
            let file = file.unwrap_or_else(|error| panic!("file {number} of {} synced ones: {error}", self.synced));
            assert!(file == content(number), "file {number} of {} synced ones has another content", self.synced);
        }
        let later = self.begun + 1;
        assert!(!directory.path().join(format!("files/{later}")).exists(), "file {later} is of the future");
    }
}

/// Whether e2fsck asked for no more than the totals of the superblock. Linux brings them up to date when it
/// unmounts; the numbers that count are those of the groups.
fn only_totals(text: &str) -> bool {
    let totals = ["Free blocks count wrong (", "Free inodes count wrong ("];
    let lines: Vec<&str> = text.lines().collect();
    let questions = lines.windows(2).filter(|lines| lines[1].ends_with("? yes"));
    questions.into_iter().all(|lines| lines[1] == "Fix? yes" && totals.iter().any(|total| lines[0].starts_with(total)))
}

#[test]
fn restores_of_a_mounted_file_system_are_what_a_loss_of_power_leaves() {
    let mut backend = Backend::start(Disk::new(LEN));
    let mut guest = Guest::boot(1, Boot::Kernel, &backend, Device::default());
    guest.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt && mkdir /mnt/files");
    guest.spawn(&load());
    guest.until(SOON, "[ -e /mnt/load.0.0 ] && [ $(wc -l </tmp/synced) -gt 5 ]");

    let full = Restore::empty(&backend.place(""), "full", LEN);
    let actions = [track(NODE), full.backup(NODE, Sync::Full, SLOWLY)];
    let mut points = vec![Point::take(&mut guest, &mut backend, full, &actions)];
    for name in ["second", "third"] {
        let restore = points.last().expect("the full one is there").restore.copy(name);
        let action = restore.backup(NODE, Sync::Incremental, SLOWLY);
        points.push(Point::take(&mut guest, &mut backend, restore, &[action]));
    }

    guest.run("touch /tmp/stop");
    guest.join(SOON);
    let synced = files(&mut guest, "synced");
    guest.run("umount /mnt");
    guest.power_off();
    let last = last_backup(&mut backend, &points[2].restore);
    assert_equal(&last, &backend.image());
    let (status, text) = file_system_tool("e2fsck", &["-fn"], last.file());
    assert_eq!(status, 0, "an unmounted file system has nothing to repair:\n{text}");
    Point { restore: last.copy("orderly"), synced, begun: synced }.assert_files(last.file());
    for point in &points {
        point.assert_as_after_loss_of_power();
    }
    backend.stop();
}

/// What changed since `before`, after the guest has gone.
fn last_backup(backend: &mut Backend, before: &Restore) -> Restore {
    let last = before.copy("last");
    let mut qmp = backend.qmp();
    last.open(&mut qmp);
    transaction(&mut qmp, &[last.backup(NODE, Sync::Incremental, 0)], false);
    last.wait(&mut qmp);
    last
}
