//! Image locks: QEMU's programs and we keep out of each other's images.

use super::bench::file_options;
use crate::error::GraphError;
use crate::graph::Graph;
use crate::node::{Node, NodeOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tempfile::NamedTempFile;

fn image() -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    image
}

/// The image in a graph of its own, as another process would have it.
fn open(path: &Path, read_only: bool) -> Arc<Node> {
    Graph::new().open(&NodeOptions { read_only: read_only.into(), ..file_options(path) }).unwrap()
}

/// Runs a program of QEMU's; what it says if it fails.
fn qemu(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}, of package qemu-utils: {error}"));
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn an_image_in_use_by_a_writer_is_refused_to_qemus_programs_unless_they_insist() {
    let image = image();
    let path = image.path().to_str().unwrap();
    let target = NamedTempFile::new().unwrap();
    let target = target.path().to_str().unwrap();
    let convert = |force: &[&str]| qemu("qemu-img", &[&["convert", "-O", "raw"], force, &[path, target]].concat());
    let write = || qemu("qemu-io", &["-f", "raw", "-c", "write 0 512", path]);
    let node = open(image.path(), false);
    convert(&[]).expect("an open image is not in use yet");
    node.acquire(true).unwrap();
    let text = convert(&[]).unwrap_err();
    assert!(text.contains("Failed to get shared \"write\" lock"), "{text}");
    assert!(write().unwrap_err().contains("Failed to get \"write\" lock"));
    convert(&["-U"]).expect("it may insist on reading");
    node.release(true);
    write().expect("nobody uses it any more");
}

#[test]
fn an_image_in_use_by_a_reader_may_be_looked_at() {
    let image = image();
    let node = open(image.path(), false);
    node.acquire(false).unwrap();
    let target = NamedTempFile::new().unwrap();
    let [from, to] = [&image, &target].map(|file| file.path().to_str().unwrap());
    qemu("qemu-img", &["convert", "-O", "raw", from, to]).unwrap();
    let other = open(image.path(), true);
    other.acquire(false).unwrap();
    assert!(matches!(other.acquire(true), Err(GraphError::ReadOnly)));
}

#[test]
fn two_writers_of_one_image_are_refused_in_qemus_words() {
    let image = image();
    let (first, second) = (open(image.path(), false), open(image.path(), false));
    first.acquire(true).unwrap();
    let error = second.acquire(true).unwrap_err();
    assert_eq!(error.to_string(), "Failed to get \"write\" lock");
    let GraphError::Locked(conflict) = error else { panic!("{error}") };
    assert_eq!(conflict.hint(), format!("Is another process using the image [{}]?", image.path().display()));
    first.release(true);
    second.acquire(true).unwrap();
    // The refused attempt has left nothing behind, and neither does a closed node.
    assert!(first.acquire(true).is_err());
    drop(second);
    first.acquire(true).unwrap();
}

/// A qemu-io that has the image open for writing until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(path: &Path) -> Self {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("qemu-io, of package qemu-utils: {error}"));
        // Its answer shows that the image is open.
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_image_that_qemu_writes_is_refused_to_us() {
    let image = image();
    let node = open(image.path(), false);
    let holder = Holder::new(image.path());
    let error = node.acquire(true).unwrap_err().to_string();
    assert_eq!(error, "Failed to get shared \"write\" lock");
    drop(holder);
    node.acquire(true).unwrap();
}
