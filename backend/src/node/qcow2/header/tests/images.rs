//! Images made by `qemu-img create`, and bytes changed in them.

use super::super::{Header, HeaderError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A directory with `disk.qcow2` in it, and `base.raw` for images that want one below.
pub struct Image {
    dir: TempDir,
}

impl Image {
    /// `qemu-img create -f qcow2 ARGUMENTS disk.qcow2 SIZE`; options and size in one line, as typed.
    pub fn create(arguments: &str, size: &str) -> Self {
        let image = Self { dir: TempDir::new().unwrap() };
        std::fs::write(image.dir.path().join("base.raw"), vec![0; 1 << 20]).unwrap();
        let command = format!("create -q -f qcow2 {arguments} disk.qcow2 {size}");
        image.tool("qemu-img", command.split_whitespace()).unwrap();
        image
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk.qcow2")
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    /// Writes `bytes` at `offset` of the file.
    pub fn patch(&self, offset: usize, bytes: &[u8]) {
        let file = std::fs::File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, offset as u64).unwrap();
    }

    pub fn patched(self, offset: usize, bytes: &[u8]) -> Self {
        self.patch(offset, bytes);
        self
    }

    /// What we make of it.
    pub fn parse(&self) -> Result<Header, HeaderError> {
        parse(&self.bytes())
    }

    /// What `qemu-img info` prints, or why it refuses.
    pub fn info(&self) -> Result<String, String> {
        self.tool("qemu-img", ["info", "--output", "json", "-f", "qcow2", "disk.qcow2"])
    }

    /// What `qemu-img check` prints, or what it finds.
    pub fn check(&self) -> Result<String, String> {
        self.tool("qemu-img", ["check", "-f", "qcow2", "disk.qcow2"])
    }

    pub fn tool<'a>(&self, program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
        run(self.dir.path(), program, arguments)
    }
}

/// What we make of the whole file `content`.
pub fn parse(content: &[u8]) -> Result<Header, HeaderError> {
    let cluster = usize::try_from(Header::cluster_size(content)?).unwrap();
    Header::parse(&content[..cluster.min(content.len())], content.len() as u64)
}

fn run<'a>(dir: &Path, program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
    let output = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr) + &text(&output.stdout)),
    }
}
