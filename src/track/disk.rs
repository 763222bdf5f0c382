//! A raw disk that is to be tracked: what it must be like.

use crate::image::{begins_with_qcow2, is_write_protected};
use anyhow::{anyhow, bail};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tidemark_backend::error::errno_text;

/// A disk's smallest unit, in bytes.
const SECTOR: u64 = 512;

/// A raw disk.
#[derive(Debug)]
pub struct TrackedDisk {
    /// As the operator named it.
    pub path: PathBuf,
    /// Its bytes: sectors, at least one.
    pub size: u64,
    /// A block device.
    pub is_device: bool,
}

impl TrackedDisk {
    /// Looks at a disk.
    ///
    /// # Errors
    /// It is none.
    pub fn find(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let fail = |error: std::io::Error| anyhow!("cannot open '{name}': {}", errno_text(&error));
        // Before it is opened: a pipe would wait for its other end.
        let kind = fs::metadata(path).map_err(fail)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            bail!("'{name}' is neither a regular file nor a block device");
        }
        let is_device = kind.is_block_device();
        let mut file = open(path, is_device).map_err(|error| match error.kind() {
            ErrorKind::ResourceBusy => {
                anyhow!("'{name}' is in use by this machine itself: it is mounted, or part of another device")
            }
            _ => fail(error),
        })?;
        let size = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if size < SECTOR {
            bail!("'{name}' is too short for a disk: {size} bytes, and a sector has {SECTOR}");
        }
        if begins_with_qcow2(&mut file).map_err(|error| anyhow!("cannot read '{name}': {}", errno_text(&error)))? {
            bail!("'{name}' looks like a qcow2 image, which keeps bitmaps itself: `tidemark bitmap add '{name}' NAME`");
        }
        if !size.is_multiple_of(SECTOR) {
            bail!(
                "'{name}' has {size} bytes, and a disk is made of sectors of {SECTOR}: if it is a disk, \
                 `truncate -s %{SECTOR} '{name}'` appends zeroes to the last one"
            );
        }
        if is_device && is_write_protected(path) {
            bail!("'{name}' cannot be written to: nothing on it changes, and there is nothing to track");
        }
        Ok(Self { path: path.to_owned(), size, is_device })
    }

    /// What the header of an image at `meta` calls it. Below the image's directory that is a relative path, so that a
    /// copy of both names the copy, and never the original.
    ///
    /// # Errors
    /// A path that cannot be found, or is no text.
    pub fn name_from(&self, meta: &Path) -> anyhow::Result<String> {
        let name = match self.is_device {
            // Links to devices mean more than where they lead today.
            true => std::path::absolute(&self.path)?,
            false => {
                let (found, dir) = (resolved(&self.path)?, resolved(directory(meta))?);
                found.strip_prefix(dir).map_or(found.clone(), Path::to_owned)
            }
        };
        let text = name.to_str().ok_or_else(|| anyhow!("'{}' is no text in UTF-8", name.display()))?;
        // What comes before a colon would be a protocol.
        let is_protocol = text.find([':', '/']).is_some_and(|at| text[at..].starts_with(':'));
        Ok(if is_protocol { format!("./{text}") } else { text.to_owned() })
    }
}

/// For reading. A device that a file system of this machine is on, or another device, is refused.
fn open(path: &Path, is_device: bool) -> io::Result<File> {
    let exclusive = if is_device { OFlags::EXCL } else { OFlags::empty() };
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | exclusive, Mode::empty())?;
    Ok(file.into())
}

fn resolved(path: &Path) -> anyhow::Result<PathBuf> {
    fs::canonicalize(path).map_err(|error| anyhow!("cannot open '{}': {}", path.display(), errno_text(&error)))
}

/// The directory that a path is in.
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
