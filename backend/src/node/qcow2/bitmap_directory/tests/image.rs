//! An image of QEMU with bitmaps in it.

use crate::node::qcow2::bitmap_directory::{BitmapEntry, DirectoryError, Image, parse};
use crate::node::qcow2::header::Header;
use std::os::unix::fs::FileExt;
use std::process::Command;
use tempfile::NamedTempFile;

pub struct Bitmapped {
    file: NamedTempFile,
}

impl Bitmapped {
    /// `options` of `qemu-img create`; of every bitmap, the options of `qemu-img bitmap --add` and its name.
    pub fn create(options: &str, size: &str, bitmaps: &[&str]) -> Self {
        let image = Self { file: NamedTempFile::new().unwrap() };
        let path = image.path();
        image.tool("qemu-img", &format!("create -q -f qcow2 {options} {path} {size}")).unwrap();
        for bitmap in bitmaps {
            let (options, name) = bitmap.rsplit_once(' ').unwrap_or(("", bitmap));
            image.tool("qemu-img", &format!("bitmap --add {options} {path} {name}")).unwrap();
        }
        image
    }

    pub fn path(&self) -> &str {
        self.file.path().to_str().unwrap()
    }

    /// Runs a program; what it prints, or what it complains about.
    pub fn tool(&self, program: &str, arguments: &str) -> Result<String, String> {
        let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr) + &text(&output.stdout)),
        }
    }

    /// `qemu-io -c COMMAND`.
    pub fn io(&self, command: &str) {
        let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", command, self.path()]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// How QEMU refuses to open it for writing, after the name of the image.
    pub fn refusal(&self) -> String {
        let arguments = format!("-f qcow2 -c quit {}", self.path());
        let text = self.tool("qemu-io", &arguments).unwrap_err();
        text.trim_end().rsplit_once(&format!("{}: ", self.path())).unwrap().1.to_owned()
    }

    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.file.as_file().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.file.as_file().write_all_at(bytes, offset).unwrap();
    }

    pub fn file_length(&self) -> u64 {
        std::fs::metadata(self.path()).unwrap().len()
    }

    pub fn header(&self) -> Header {
        let first = self.read(0, 65536.min(self.file_length()));
        let cluster = Header::cluster_size(&first).unwrap();
        Header::parse(&self.read(0, cluster), self.file_length()).unwrap()
    }

    pub fn image(&self) -> Image {
        let header = self.header();
        Image { geometry: header.geometry(), size: header.size, file_length: self.file_length() }
    }

    /// The directory's bytes.
    pub fn directory(&self) -> Vec<u8> {
        let bitmaps = self.header().bitmaps.unwrap();
        self.read(bitmaps.offset, bitmaps.size)
    }

    pub fn parse(&self) -> Result<Vec<BitmapEntry>, DirectoryError> {
        parse(&self.directory(), self.header().bitmaps.unwrap().count, self.image())
    }

    /// Words of a bitmap's table.
    pub fn table(&self, entry: &BitmapEntry) -> Vec<u64> {
        let bytes = self.read(entry.table_offset, u64::from(entry.table_entries) * 8);
        bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes).collect()
    }
}
