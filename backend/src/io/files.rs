//! Open files by number, as operations name them, and what the data path must know of each.
//!
//! Numbers are never used twice, so an operation or a ring's registration that is late can hit no other file. Files are
//! added, replaced and removed by the control plane; each ring looks one up once, registers it, and drops it before the
//! first operation that comes after that.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

/// The number of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// An open file as a ring needs it.
#[derive(Clone, Debug)]
pub struct FileInfo {
    /// The descriptor.
    pub fd: Arc<OwnedFd>,
    /// A block device: discards and zeroes are ioctls.
    pub block_device: bool,
    /// Opened with O_DIRECT: what is submitted starts the device.
    pub direct: bool,
    /// What its file system has no asynchronous path for.
    pub at_once: AtOnce,
}

/// What io_uring would hand to a worker thread, which costs more than the copy: made at once, by plain system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    /// Nothing: the file system has asynchronous paths, or its operations wait for a device.
    Nothing,
    /// Writes of whole pages into the page cache, as long as they do not wait.
    Writes,
    /// Reads and writes: the file is in memory.
    All,
}

/// All open files of the process.
#[derive(Debug, Default)]
pub struct FileTable {
    next: AtomicU32,
    changed: AtomicU32,
    files: RwLock<HashMap<FileId, FileInfo>>,
}

impl FileTable {
    /// Adds an open file and names it.
    pub fn insert(&self, info: FileInfo) -> FileId {
        let id = FileId(self.next.fetch_add(1, Ordering::Relaxed));
        self.write().insert(id, info);
        id
    }

    /// The file with this number, while it is open.
    pub fn get(&self, id: FileId) -> Option<FileInfo> {
        self.files.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&id).cloned()
    }

    /// Closes a file; no operation on it may be in flight.
    pub fn remove(&self, id: FileId) {
        self.write().remove(&id);
        self.changed.fetch_add(1, Ordering::Release);
    }

    /// Puts another open file in the place of one. Operations in flight end on the one they were begun on.
    pub fn replace(&self, id: FileId, info: FileInfo) {
        if let Some(file) = self.write().get_mut(&id) {
            *file = info;
        }
        self.changed.fetch_add(1, Ordering::Release);
    }

    /// How often a file was closed or replaced: a change tells a ring to look through its registrations.
    #[inline]
    pub fn changes(&self) -> u32 {
        self.changed.load(Ordering::Acquire)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<FileId, FileInfo>> {
        self.files.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
