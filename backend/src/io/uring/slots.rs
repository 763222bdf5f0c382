//! The files a ring has registered: looked up once, then an index away.

use super::entry::Target;
use super::known::{Entry, Known};
use crate::io::{FileId, FileInfo, FileTable};
use io_uring::{IoUring, types};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Registered files per ring; more files than this are used unregistered.
const SLOTS: u32 = 256;

pub struct Slots {
    table: Arc<FileTable>,
    known: Known,
    free: Vec<u32>,
    /// By slot: operations in flight.
    users: Vec<u32>,
    /// By slot: a file that was closed or replaced while operations were in flight.
    retired: Vec<Option<FileInfo>>,
    changes: u32,
}

/// A file as an operation in flight needs it: the kernel may look it up late, from a thread of its own.
pub enum Held {
    /// Registered.
    Slot(usize),
    /// Open.
    Fd(Option<Arc<OwnedFd>>),
}

impl Slots {
    /// No files yet. A kernel without sparse registration leaves every file unregistered.
    pub fn new(ring: &IoUring, table: Arc<FileTable>) -> Self {
        let free = match ring.submitter().register_files_sparse(SLOTS) {
            Ok(()) => (0..SLOTS).rev().collect(),
            Err(_) => Vec::new(),
        };
        let slots = SLOTS as usize;
        let (users, retired) = (vec![0; slots], vec![None; slots]);
        Self { changes: table.changes(), table, known: Known::default(), free, users, retired }
    }

    /// The ring's name for a file; `None` if it is closed.
    pub fn find(&mut self, ring: &IoUring, id: FileId) -> Option<(Target, &FileInfo)> {
        let place = match self.known.place(id) {
            Some(place) => place,
            None => self.register(ring, id)?,
        };
        self.known.at(place).map(|entry| (entry.target, &entry.info))
    }

    /// Keeps a file that was found for an operation that begins.
    pub fn hold(&mut self, id: FileId, target: Target) -> Held {
        match target {
            Target::Fixed(types::Fixed(slot)) => {
                self.users[slot as usize] += 1;
                Held::Slot(slot as usize)
            }
            Target::Fd(_) => {
                let place = self.known.place(id);
                Held::Fd(place.and_then(|place| self.known.at(place)).map(|entry| entry.info.fd.clone()))
            }
        }
    }

    /// The operation has ended.
    pub fn let_go(&mut self, ring: &IoUring, held: Held) {
        let slot = match held {
            Held::Slot(slot) => slot,
            Held::Fd(fd) => return drop(fd),
        };
        self.users[slot] -= 1;
        if self.users[slot] == 0 && self.retired[slot].take().is_some() {
            self.give_back(ring, slot);
        }
    }

    /// Drops the files that were closed or replaced since the last call.
    #[inline]
    pub fn drop_closed(&mut self, ring: &IoUring) {
        let changes = self.table.changes();
        if changes != self.changes {
            self.changes = changes;
            self.look_through(ring);
        }
    }

    #[cold]
    fn look_through(&mut self, ring: &IoUring) {
        let table = &self.table;
        let current = |id: FileId, known: &FileInfo| table.get(id).is_some_and(|now| Arc::ptr_eq(&known.fd, &now.fd));
        for id in self.known.outdated(current) {
            self.forget(ring, id);
        }
    }

    fn forget(&mut self, ring: &IoUring, id: FileId) {
        let Some(Entry { target: Target::Fixed(types::Fixed(slot)), info, .. }) = self.known.remove(id) else { return };
        match self.users[slot as usize] {
            0 => self.give_back(ring, slot as usize),
            _ => self.retired[slot as usize] = Some(info),
        }
    }

    fn give_back(&mut self, ring: &IoUring, slot: usize) {
        if let Ok(slot) = u32::try_from(slot)
            && ring.submitter().register_files_update(slot, &[-1]).is_ok()
        {
            self.free.push(slot);
        }
    }

    /// Returns its place.
    #[cold]
    fn register(&mut self, ring: &IoUring, id: FileId) -> Option<usize> {
        let info = self.table.get(id)?;
        let fd = info.fd.as_raw_fd();
        let target = match self.free.pop() {
            Some(slot) if ring.submitter().register_files_update(slot, &[fd]).is_ok() => {
                Target::Fixed(types::Fixed(slot))
            }
            _ => Target::Fd(types::Fd(fd)),
        };
        Some(self.known.add(id, target, info))
    }
}
