//! Points in time of disks, taken through the monitor, and the files they are restored to. Knows the
//! commands of a backup; what has to be in a restore is the business of each test.
//!
//! Invariant: a restore is looked at after its job has ended and its file is closed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::image;
use crate::qmp::{Qmp, one_line};

/// The bitmap that every disk of these tests tracks its changes with.
pub const BITMAP: &str = "changes";

/// What a backup copies.
#[derive(Clone, Copy)]
pub enum Sync {
    /// Everything.
    Full,
    /// Everything, and the bitmap begins anew.
    FullAndBitmap,
    /// What has changed since the last point in time.
    Incremental,
}

/// The file a point in time is restored to.
pub struct Restore {
    name: String,
    file: PathBuf,
}

impl Restore {
    /// A file of `len` zero bytes, for a backup of everything.
    pub fn empty(directory: &Path, name: &str, len: u64) -> Self {
        let file = directory.join(name);
        File::create(&file).and_then(|file| file.set_len(len)).expect("a target can be created");
        Self { name: name.to_owned(), file }
    }

    /// A copy of this one, for a backup of what has changed since.
    pub fn copy(&self, name: &str) -> Self {
        let file = self.file.with_file_name(name);
        fs::copy(&self.file, &file).expect("a restore can be copied");
        Self { name: name.to_owned(), file }
    }

    /// Opens it as the target of a job, all of the same name.
    pub fn open(&self, qmp: &mut Qmp) {
        let Self { name, file } = self;
        let node = format!(r#"{{"driver": "file", "node-name": "{name}", "filename": "{}"}}"#, file.display());
        qmp.execute("blockdev-add", &node);
    }

    /// The action that backs the node `disk` up to it, with at most `speed` bytes per second.
    pub fn backup(&self, disk: &str, sync: Sync, speed: u64) -> String {
        let sync = match sync {
            Sync::Full => r#""sync": "full""#.to_owned(),
            Sync::FullAndBitmap => format!(r#""sync": "full", "bitmap": "{BITMAP}", "bitmap-mode": "on-success""#),
            Sync::Incremental => format!(r#""sync": "incremental", "bitmap": "{BITMAP}""#),
        };
        let name = &self.name;
        one_line(&format!(
            r#"{{"type": "blockdev-backup", "data": {{"job-id": "{name}", "device": "{disk}", "target": "{name}",
                "speed": {speed}, {sync}}}}}"#
        ))
    }

    /// Takes the limit from its job, which has to be running still.
    pub fn hurry(&self, qmp: &mut Qmp) {
        let name = &self.name;
        qmp.execute("block-job-set-speed", &format!(r#"{{"device": "{name}", "speed": 0}}"#));
    }

    /// Waits for the end of its job, which has to succeed, and closes the file.
    pub fn wait(&self, qmp: &mut Qmp) {
        let name = format!(r#""{}""#, self.name);
        let end = qmp.wait_event(&["\"BLOCK_JOB_COMPLETED\"", &name]);
        assert!(!end.contains("\"error\""), "a backup failed: {end}");
        // Its nodes and its bitmap are free again.
        qmp.wait_event(&["\"JOB_STATUS_CHANGE\"", &name, "\"null\""]);
        qmp.execute("blockdev-del", &format!(r#"{{"node-name": {name}}}"#));
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All of its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).expect("a restore can be read")
    }
}

/// The action that begins to track the changes of the node `disk`.
pub fn track(disk: &str) -> String {
    format!(r#"{{"type": "block-dirty-bitmap-add", "data": {{"node": "{disk}", "name": "{BITMAP}"}}}}"#)
}

/// Executes actions at one moment. Backups that are `grouped` succeed all or not at all.
pub fn transaction(qmp: &mut Qmp, actions: &[String], grouped: bool) {
    let mode = if grouped { "grouped" } else { "individual" };
    let actions = actions.join(", ");
    let arguments = format!(r#"{{"actions": [{actions}], "properties": {{"completion-mode": "{mode}"}}}}"#);
    qmp.execute("transaction", &arguments);
}

/// Asserts that a restore is the image of a disk at rest, byte for byte.
pub fn assert_equal(restore: &Restore, image: &Path) {
    let image = fs::read(image).expect("the image can be read");
    let restore = restore.bytes();
    assert_eq!(restore.len(), image.len(), "length of the restore");
    let wrong = restore.iter().zip(&image).position(|(restored, written)| restored != written);
    assert_eq!(wrong, None, "offset of the first byte in which the restore differs from the disk");
}

/// Runs a program of the host on a file system. Returns its exit status and everything it printed.
pub fn file_system_tool(program: &'static str, arguments: &[&str], file: &Path) -> (i32, String) {
    let output = Command::new(image::program(program)).args(arguments).arg(file).output();
    let output = output.expect("it ran a moment ago");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code().expect("it ended by itself"), text)
}
