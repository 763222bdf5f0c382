//! What lies under the daemons: nothing, memory, a cached file, a disk.
//!
//! All peers use the same file, one at a time. Locking is off, because two daemons have it open.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};
use tempfile::TempDir;

/// The kinds of storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// `null-co`: completes at once.
    Null,
    /// A file in memory (tmpfs).
    Tmpfs,
    /// A file on disk that is in the page cache.
    Cached,
    /// The same file with O_DIRECT.
    Direct,
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Storage::Null => "null-co",
            Storage::Tmpfs => "tmpfs",
            Storage::Cached => "cached",
            Storage::Direct => "direct",
        })
    }
}

impl Storage {
    /// What `aio=` qemu-storage-daemon is tried with; the best one is measured. tidemark is given none.
    pub fn aio_choices(self) -> &'static [&'static str] {
        match self {
            Storage::Null => &[""],
            Storage::Tmpfs | Storage::Cached => &["threads", "io_uring"],
            Storage::Direct => &["native", "io_uring"],
        }
    }
}

/// A directory on a storage, removed with its handle; `dir` is the one on a disk.
///
/// # Errors
/// If it cannot be made.
pub fn directory(storage: Storage, dir: &Path) -> Result<TempDir> {
    let parent = if storage == Storage::Tmpfs { Path::new("/dev/shm") } else { dir };
    tempfile::tempdir_in(parent).with_context(|| format!("cannot use {}", parent.display()))
}

/// Brings a file into the page cache.
///
/// # Errors
/// If it cannot be read.
pub fn read_through(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 1 << 20];
    while file.read(&mut chunk)? > 0 {}
    Ok(())
}

/// Brings a file into the page cache as random reads do: page by page, whoever wrote it and however large the pieces were.
/// What a random write costs in ext4 grows with the pieces (folios) that the cache has the file in, up to twentyfold.
/// On tmpfs it stays as it is.
///
/// # Errors
/// If it cannot be read, or not be made stable first.
pub fn read_anew(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut chunk = vec![0; 1 << 20];
    while file.read(&mut chunk)? > 0 {}
    Ok(())
}

/// The files, removed at the end.
pub struct Files {
    size: u64,
    disk: PathBuf,
    memory: PathBuf,
    _dirs: [TempDir; 2],
}

impl Files {
    /// Writes both files, full of data that does not compress, and leaves the disk's in the page cache.
    pub fn prepare(dir: &Path, size_mib: u32) -> Result<Files> {
        let (on_disk, in_memory) = (directory(Storage::Cached, dir)?, directory(Storage::Tmpfs, dir)?);
        let (disk, memory) = (on_disk.path().join("disk.raw"), in_memory.path().join("disk.raw"));
        for path in [&disk, &memory] {
            fill(path, size_mib).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Files { size: u64::from(size_mib) << 20, disk, memory, _dirs: [on_disk, in_memory] })
    }

    /// Bytes of every disk, `null-co` included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file of a storage, if it has one.
    pub fn path(&self, storage: Storage) -> Option<&Path> {
        match storage {
            Storage::Null => None,
            Storage::Tmpfs => Some(&self.memory),
            Storage::Cached | Storage::Direct => Some(&self.disk),
        }
    }

    /// The argument of `--blockdev`, node name `d`.
    pub fn blockdev(&self, storage: Storage, aio: &str) -> String {
        let Some(path) = self.path(storage) else {
            return format!("driver=null-co,node-name=d,size={}", self.size);
        };
        let mut option = format!("driver=file,node-name=d,locking=off,filename={}", path.display());
        if storage == Storage::Direct {
            option.push_str(",cache.direct=on");
        }
        if !aio.is_empty() {
            option.push_str(",aio=");
            option.push_str(aio);
        }
        option
    }

    /// Brings a file into the page cache after something may have pushed it out.
    pub fn warm(&self, storage: Storage) -> Result<()> {
        if storage == Storage::Cached {
            read_through(&self.disk)?;
        }
        Ok(())
    }
}

/// Writes a file of data that does not compress; its length is in MiB.
///
/// # Errors
/// If it cannot be written.
pub fn fill(path: &Path, size_mib: u32) -> Result<()> {
    let mut file = File::create(path)?;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..size_mib {
        rng.fill(&mut chunk);
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(())
}
