//! The image that holds the bitmaps of a raw disk: its path and its first bytes.

use super::disk::{TrackedDisk, directory};
use anyhow::{Context as _, bail};
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use tidemark_backend::node::qcow2::create::{CreateOptions, layout};

/// The largest there are: a table of them maps 512 GiB.
pub const CLUSTER_BYTES: u64 = 2 << 20;

/// Where the image is, or is to be.
///
/// # Errors
/// A block device, and nobody has said where.
pub fn named(disk: &TrackedDisk, wanted: Option<&Path>) -> anyhow::Result<PathBuf> {
    match wanted {
        Some(path) => Ok(path.to_owned()),
        None if disk.is_device => bail!(
            "'{}' is a block device, and what is beside it is gone after a restart of this machine: say with --meta \
             where the image is to be",
            disk.path.display()
        ),
        None => {
            let mut path = disk.path.clone().into_os_string();
            path.push(".track.qcow2");
            Ok(path.into())
        }
    }
}

/// Where the image goes.
///
/// # Errors
/// As [`named`]; there is something.
pub fn path(disk: &TrackedDisk, wanted: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = named(disk, wanted)?;
    match path.symlink_metadata() {
        Ok(_) => Err(exists(&path)),
        Err(_) => Ok(path),
    }
}

fn exists(path: &Path) -> anyhow::Error {
    let path = path.display();
    anyhow::anyhow!(
        "'{path}' exists. If it tracks this disk, add bitmaps to it: `tidemark bitmap add '{path}' NAME`; otherwise say \
         another one with --meta"
    )
}

/// Makes the image without a bitmap, under a name that is nobody's.
///
/// # Errors
/// The directory is not there, or full; the disk is too large.
pub fn make(disk: &TrackedDisk, path: &Path) -> anyhow::Result<NamedTempFile> {
    let options = CreateOptions {
        size: disk.size,
        cluster_size: CLUSTER_BYTES,
        data_file: Some(disk.name_from(path)?),
        data_file_raw: true,
        ..CreateOptions::default()
    };
    let layout = layout(&options)?;
    let written = || -> std::io::Result<NamedTempFile> {
        let mode = Permissions::from_mode(0o644);
        let file = tempfile::Builder::new().prefix(".track").permissions(mode).tempfile_in(directory(path))?;
        file.as_file().set_len(layout.length)?;
        for (offset, bytes) in layout.writes() {
            // What follows is zero in a new file, and takes no space.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            file.as_file().write_all_at(&bytes[..used], offset)?;
        }
        Ok(file)
    };
    written().with_context(|| format!("cannot make '{}'", path.display()))
}

/// Gives the image its name, stably.
///
/// # Errors
/// Somebody has made a file of that name meanwhile; the storage's.
pub fn publish(made: NamedTempFile, path: &Path) -> anyhow::Result<()> {
    let fail = || format!("cannot make '{}'", path.display());
    made.as_file().sync_all().with_context(fail)?;
    made.persist_noclobber(path).map_err(|error| match error.error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => anyhow::Error::from(error.error).context(fail()),
    })?;
    File::open(directory(path)).and_then(|dir| dir.sync_all()).with_context(fail)
}
