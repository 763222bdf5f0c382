//! The file or block device that a backup goes to: created or found fit before the daemon hears of it.
//!
//! A file that was here before is never resized and never removed.

use super::BackupOptions;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Where a backup goes.
pub struct Target {
    /// Absolute: the daemon has a directory of its own.
    pub path: PathBuf,
    /// The same for the daemon, which takes UTF-8.
    name: String,
    kind: Kind,
    /// Bytes that the disk has.
    size: u64,
    incremental: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Created,
    File,
    Device {
        /// Whether it has more bytes than the disk.
        larger: bool,
    },
}

impl Target {
    /// Creates the file, or makes sure that the one that is there can take a disk of `size` bytes.
    ///
    /// # Errors
    /// It cannot; the text says what can be done about it.
    pub fn prepare(options: &BackupOptions, size: u64) -> Result<Self> {
        let path = std::path::absolute(&options.to).context("there is no current directory")?;
        let shown = options.to.display();
        let name = path.to_str().with_context(|| format!("'{shown}': the path is not valid UTF-8"))?.to_owned();
        let incremental = options.incremental.is_some();
        let kind = match std::fs::metadata(&path) {
            Ok(metadata) => {
                if !incremental && !options.overwrite {
                    bail!("'{shown}' exists; name a new file, or say --overwrite if it is of no use any more");
                }
                existing(&path, metadata.file_type(), size).with_context(|| format!("cannot use '{shown}'"))?
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot use '{shown}'"));
            }
            Err(_) if incremental => bail!(
                "'{shown}' does not exist, and an incremental backup goes onto a copy of the backup before it: \
                 cp --reflink=auto PREVIOUS '{shown}'"
            ),
            Err(_) => {
                create(&path, size).with_context(|| format!("cannot create '{shown}' with {size} bytes"))?;
                Kind::Created
            }
        };
        Ok(Self { path, name, kind, size, incremental })
    }

    /// The arguments of `blockdev-add` for a node called `node`.
    pub fn node(&self, node: &str) -> Vec<String> {
        let file = &self.name;
        // Zeroes of the disk become holes of the file.
        let mut arguments = vec![format!("node-name={node}"), "discard=unmap".into()];
        match self.kind {
            Kind::Created | Kind::File => arguments.extend(["driver=file".into(), format!("filename={file}")]),
            Kind::Device { larger: false } => {
                arguments.extend(["driver=host_device".into(), format!("filename={file}")]);
            }
            Kind::Device { larger: true } => arguments.extend([
                "driver=raw".into(),
                format!("size={}", self.size),
                "file.driver=host_device".into(),
                format!("file.filename={file}"),
                "file.discard=unmap".into(),
            ]),
        }
        arguments
    }

    /// Makes what the daemon wrote survive a loss of power.
    ///
    /// # Errors
    /// The system cannot write it.
    pub fn flush(&self) -> Result<()> {
        let failed = || format!("cannot flush '{}'", self.path.display());
        File::open(&self.path).and_then(|file| file.sync_all()).with_context(failed)?;
        match self.path.parent() {
            Some(directory) if self.kind == Kind::Created => {
                File::open(directory).and_then(|directory| directory.sync_all()).with_context(failed)
            }
            _ => Ok(()),
        }
    }

    /// What becomes of a target without a complete backup, `touched` or not: a file made for it goes. Says so.
    pub fn fate(&self, touched: bool) -> String {
        let shown = self.path.display();
        match self.kind {
            Kind::Created => match std::fs::remove_file(&self.path) {
                Ok(()) => format!("'{shown}' has been removed"),
                Err(error) => format!("'{shown}' is not complete and cannot be removed: {error}"),
            },
            _ if !touched => format!("'{shown}' is as it was"),
            _ if self.incremental => {
                format!("'{shown}' is not complete; the bitmap keeps what it marked, so the same command completes it")
            }
            _ => format!("'{shown}' is not complete, and what it held before is gone"),
        }
    }
}

/// What is at `path` already, if a disk of `size` bytes fits.
fn existing(path: &Path, found: FileType, size: u64) -> Result<Kind> {
    let length = || File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    if found.is_block_device() {
        let length = length()?;
        ensure!(length >= size, "it has {length} bytes, the disk {size}");
        return Ok(Kind::Device { larger: length > size });
    }
    ensure!(found.is_file(), "it is neither a file nor a block device");
    let length = length()?;
    ensure!(length == size, "it has {length} bytes, the disk {size}");
    Ok(Kind::File)
}

fn create(path: &Path, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_len(size).inspect_err(|_| {
        // The error that matters is the first one.
        let _ = std::fs::remove_file(path);
    })
}
