//! The journal's file: in a directory of the system's memory, with a number for a name.
//!
//! It is believed only if this user made it, since this system was started, for the image that names its number.

use super::record::WORDS;
use super::{CHANGES, FILE, GENERATIONS, Journal, RECORDS, SLOTS, Tail};
use crate::io::SharedWords;
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// "Tidemark", then the layout's number.
const MAGIC: u64 = u64::from_be_bytes(*b"Tidemar2");

/// Where journals are, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A directory whose files outlive the process, but not the system.
    pub directory: PathBuf,
    /// Records of a half; [`super::MOST`] at least.
    pub slots: usize,
    /// Words for a change journal.
    pub changes: usize,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system's.
    #[error("'{}': {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// It is another user's, or others may write to it.
    #[error("'{}' is not this user's alone", .0.display())]
    Foreign(PathBuf),
    /// It is not what its name says, or was made before the system was started.
    #[error("'{}' is not the journal of this image", .0.display())]
    Other(PathBuf),
}

impl Default for Place {
    fn default() -> Self {
        Self { directory: PathBuf::from("/dev/shm"), slots: 32768, changes: 0 }
    }
}

impl Place {
    pub(super) fn path(&self, id: u64) -> PathBuf {
        self.directory.join(format!("tidemark-{id:010x}.journal"))
    }

    /// Makes an empty journal with this number for the image at `image`, and removes those that nobody can need.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn create(&self, id: u64, image: &Path) -> Result<Journal, JournalError> {
        self.sweep();
        let path = self.path(id);
        let file = in_file(&path, || open(&path, OFlags::CREATE | OFlags::EXCL))?;
        let made = in_file(&path, || {
            // Who looks for journals that nobody needs leaves those alone whose owner lives.
            rustix::fs::flock(&file, FlockOperation::LockShared)?;
            let words = words(self.slots, self.changes);
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, words as u64 * 8)?;
            SharedWords::map(file, words)
        });
        let words = made.inspect_err(|_| remove(&path))?;
        identity(id).into_iter().for_each(|(at, value)| words.store(at, value));
        words.store(SLOTS, self.slots as u64);
        words.store(CHANGES, self.changes as u64);
        self.note_image(&words, image);
        FILE.zip(file_of(image)).for_each(|(at, value)| words.store(at, value));
        words.store(0, MAGIC);
        let journal = Journal { words: Arc::new(words), path, slots: self.slots, tail: Mutex::new(FIRST) };
        journal.begin_cycle();
        Ok(journal)
    }

    /// The journal with this number, if it is there. An image may name any: it has to be that of the file at `image`.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn find(&self, id: u64, image: &Path) -> Result<Option<Journal>, JournalError> {
        let path = self.path(id);
        let Some((words, slots)) = self.open(id)? else { return Ok(None) };
        if !FILE.zip(file_of(image)).all(|(at, value)| words.load(at) == value) {
            return Err(JournalError::Other(path));
        }
        let generation = |half: usize| words.load(GENERATIONS + half);
        let half = if generation(1) > generation(0) { 1 } else { 0 };
        // Nothing is added to what is there: it is read, and dropped.
        let tail = Tail { half, slot: slots, generation: generation(half) };
        Ok(Some(Journal { words: Arc::new(words), path, slots, tail: Mutex::new(tail) }))
    }

    /// The words of the journal with this number, and how many records a half has; `None` if it is not there.
    pub(super) fn open(&self, id: u64) -> Result<Option<(SharedWords, usize)>, JournalError> {
        let path = self.path(id);
        let file = match open(&path, OFlags::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => in_file(&path, || file)?,
        };
        let stat = in_file(&path, || file.metadata())?;
        let own = stat.is_file() && stat.uid() == rustix::process::geteuid().as_raw() && stat.mode() & 0o077 == 0;
        if !own {
            return Err(JournalError::Foreign(path));
        }
        let size = usize::try_from(stat.len() / 8).unwrap_or(0);
        let words = in_file(&path, || SharedWords::map(file, size))?;
        let named = identity(id).into_iter().all(|(at, value)| words.load(at) == value);
        let slots = usize::try_from(words.load(SLOTS)).unwrap_or(0);
        let changes = usize::try_from(words.load(CHANGES)).unwrap_or(usize::MAX);
        match words.load(0) == MAGIC && named && size == self::words(slots, changes) {
            true => Ok(Some((words, slots))),
            false => Err(JournalError::Other(path)),
        }
    }
}

impl Journal {
    /// Removes the file.
    pub fn remove(&self) {
        remove(&self.path);
    }
}

/// Before the first half.
const FIRST: Tail = Tail { half: 1, slot: 0, generation: 0 };

fn words(slots: usize, changes: usize) -> usize {
    RECORDS.saturating_add(slots.saturating_mul(2 * WORDS)).saturating_add(changes)
}

/// Words that say whose journal this is, and where they are.
fn identity(id: u64) -> [(usize, u64); 3] {
    let boot = boot_id().to_be_bytes();
    let [high, low] = [0, 8].map(|at| boot[at..].first_chunk().copied().map_or(0, u64::from_be_bytes));
    [(1, id), (2, high), (3, low)]
}

/// What a file is whatever its name; zeroes if there is none.
fn file_of(image: &Path) -> [u64; 2] {
    match std::fs::metadata(image) {
        Ok(stat) if stat.file_type().is_block_device() => [stat.rdev(), 0],
        Ok(stat) => [stat.dev(), stat.ino()],
        Err(_) => [0; 2],
    }
}

/// Which start of the system this is; 0 where it does not say.
fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

fn in_file<T>(path: &Path, run: impl FnOnce() -> io::Result<T>) -> Result<T, JournalError> {
    run().map_err(|source| JournalError::File { path: path.to_owned(), source })
}

pub(super) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a journal that is not needed any more could not be removed");
        }
        _ => {}
    }
}
