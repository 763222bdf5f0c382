//! The files a ring has registered: looked up once, then an index away.

use super::entry::Target;
use crate::io::{FileId, FileInfo, FileTable};
use io_uring::{IoUring, types};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Registered files per ring; more files than this are used unregistered.
const SLOTS: u32 = 256;

pub struct Slots {
    table: Arc<FileTable>,
    /// By file number; numbers are small and never reused.
    known: Vec<Option<(Target, FileInfo)>>,
    free: Vec<u32>,
    changes: u32,
}

impl Slots {
    /// No files yet. A kernel without sparse registration leaves every file unregistered.
    pub fn new(ring: &IoUring, table: Arc<FileTable>) -> Self {
        let free = match ring.submitter().register_files_sparse(SLOTS) {
            Ok(()) => (0..SLOTS).rev().collect(),
            Err(_) => Vec::new(),
        };
        Self { changes: table.changes(), table, known: Vec::new(), free }
    }

    /// The ring's name for a file; `None` if it is closed. Not while [`Slots::is_stale`].
    pub fn find(&mut self, ring: &IoUring, id: FileId) -> Option<(Target, &FileInfo)> {
        let index = id.0 as usize;
        if self.known.get(index).is_none_or(Option::is_none) {
            self.register(ring, id)?;
        }
        self.known[index].as_ref().map(|(target, info)| (*target, info))
    }

    /// Whether files were closed or replaced since they were dropped last.
    #[inline]
    pub fn is_stale(&self) -> bool {
        self.table.changes() != self.changes
    }

    /// Drops the files that were closed or replaced since the last call. What was pushed has to be submitted before.
    pub fn drop_closed(&mut self, ring: &IoUring) {
        if !self.is_stale() {
            return;
        }
        self.changes = self.table.changes();
        for index in 0..self.known.len() {
            let now = u32::try_from(index).ok().and_then(|id| self.table.get(FileId(id)));
            let known = self.known[index].as_ref().map(|(_, info)| &info.fd);
            if known.is_some_and(|known| now.is_none_or(|now| !Arc::ptr_eq(known, &now.fd))) {
                self.forget(ring, index);
            }
        }
    }

    fn forget(&mut self, ring: &IoUring, index: usize) {
        if let Some((Target::Fixed(types::Fixed(slot)), _)) = self.known[index].take()
            && ring.submitter().register_files_update(slot, &[-1]).is_ok()
        {
            self.free.push(slot);
        }
    }

    fn register(&mut self, ring: &IoUring, id: FileId) -> Option<()> {
        let info = self.table.get(id)?;
        let fd = info.fd.as_raw_fd();
        let target = match self.free.pop() {
            Some(slot) if ring.submitter().register_files_update(slot, &[fd]).is_ok() => {
                Target::Fixed(types::Fixed(slot))
            }
            _ => Target::Fd(types::Fd(fd)),
        };
        let index = id.0 as usize;
        if self.known.len() <= index {
            self.known.resize_with(index + 1, || None);
        }
        self.known[index] = Some((target, info));
        Some(())
    }
}
