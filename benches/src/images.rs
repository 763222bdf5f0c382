//! The disks: a raw file, images with all its content, empty images. Each daemon has its own image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::storage::{Storage, directory, fill, read_anew};

/// What a disk is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Its bytes.
    Raw,
    /// An image of the default options, 64 KiB per cluster.
    Qcow2,
}

impl Format {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// A directory with disks.
pub struct Images {
    dir: TempDir,
    size: u64,
    qemu_img: PathBuf,
}

impl Images {
    /// A place for disks of one size; `dir` is a directory on a disk, `qemu_img` the program that makes images.
    ///
    /// # Errors
    /// If there can be no directory there.
    pub fn new(storage: Storage, dir: &Path, size_mib: u32, qemu_img: &Path) -> Result<Images> {
        let dir = directory(storage, dir)?;
        Ok(Images { dir, size: u64::from(size_mib) << 20, qemu_img: qemu_img.to_owned() })
    }

    /// Gives it a full raw file, and as many images of its content, all of them in memory.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn filled(self, copies: usize) -> Result<Images> {
        let images = self;
        let raw = images.raw();
        fill(&raw, u32::try_from(images.size >> 20)?).context("cannot write the raw file")?;
        for copy in 0..copies {
            images.fill(&images.image(copy))?;
        }
        read_anew(&raw)?;
        Ok(images)
    }

    /// Bytes of every disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The raw file.
    pub fn raw(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    /// An image.
    pub fn image(&self, copy: usize) -> PathBuf {
        self.dir.path().join(format!("disk{copy}.qcow2"))
    }

    /// Makes an image empty, whether it is there or not.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_empty(&self, copy: usize) -> Result<PathBuf> {
        let path = self.image(copy);
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let size = self.size.to_string();
        self.qemu_img(&["create", "-q", "-f", "qcow2"], &[&path, Path::new(&size)])?;
        Ok(path)
    }

    /// Gives an image the raw file's content: its clusters are there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn fill(&self, path: &Path) -> Result<()> {
        self.qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&self.raw(), path])?;
        read_anew(path)
    }

    fn qemu_img(&self, options: &[&str], operands: &[&Path]) -> Result<()> {
        let status = Command::new(&self.qemu_img)
            .args(options)
            .args(operands)
            .stdout(Stdio::null())
            .status()
            .context("cannot run qemu-img (Debian package qemu-utils)")?;
        anyhow::ensure!(status.success(), "qemu-img {} failed: {status}", options.join(" "));
        Ok(())
    }
}

/// The argument of `--blockdev`, node name `d`.
pub fn blockdev(format: Format, path: &Path, aio: &str) -> String {
    let (driver, file) = match format {
        Format::Raw => ("driver=file,node-name=d", ""),
        Format::Qcow2 => ("driver=qcow2,node-name=d,file.driver=file", "file."),
    };
    let mut option = format!("{driver},{file}locking=off,{file}filename={}", path.display());
    if !aio.is_empty() {
        option.push_str(&format!(",{file}aio={aio}"));
    }
    option
}
