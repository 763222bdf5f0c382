//! Journals that nobody can need any more: their daemon was killed, and their image is gone or does not name them.
//!
//! Only those are looked at that this user made in this namespace of paths, so that a path means the same; and of those
//! whose owner lives none.

use super::file::remove;
use super::{IMAGE, NAMESPACE, Place};
use crate::io::SharedWords;
use crate::node::qcow2::header::Header;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the autoclear bits are in an image's header.
const AUTOCLEAR: u64 = 88;

impl Place {
    /// Removes journals that nobody can need. What cannot be looked at stays.
    pub(super) fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix("tidemark-")?.strip_suffix(".journal"));
            if let Some(id) = id.and_then(|id| u64::from_str_radix(id, 16).ok())
                && self.is_abandoned(id)
            {
                remove(&self.path(id));
            }
        }
    }

    /// Notes which image a journal goes with.
    pub(super) fn note_image(&self, words: &SharedWords, image: &Path) {
        words.store(NAMESPACE, namespace());
        let bytes = image.as_os_str().as_bytes();
        if bytes.len() < IMAGE.len() * 8 {
            for (at, chunk) in IMAGE.zip(bytes.chunks(8)) {
                let mut word = [0; 8];
                word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
                words.store(at, u64::from_ne_bytes(word));
            }
        }
    }

    fn is_abandoned(&self, id: u64) -> bool {
        let Ok(file) = File::options().read(true).write(true).open(self.path(id)) else { return false };
        let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        match self.open(id) {
            Ok(Some((words, _))) if free && words.load(NAMESPACE) == namespace() => {
                noted_image(&words).is_some_and(|image| !names(&image, id))
            }
            _ => false,
        }
    }
}

fn noted_image(words: &SharedWords) -> Option<PathBuf> {
    let bytes: Vec<u8> = IMAGE.flat_map(|at| words.load(at).to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    (!bytes.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(&bytes)))
}

/// Whether the image at a path names a journal, as far as can be seen.
fn names(image: &Path, id: u64) -> bool {
    let file = match rustix::fs::open(image, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(error) => return io::Error::from(error).kind() != io::ErrorKind::NotFound,
    };
    let mut autoclear = [0; 8];
    match file.read_exact_at(&mut autoclear, AUTOCLEAR) {
        Ok(()) => Header::journal_of(u64::from_be_bytes(autoclear)) == Some(id),
        Err(error) => error.kind() != io::ErrorKind::UnexpectedEof,
    }
}

/// Which paths this process sees; 0 where the system does not say.
fn namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/mnt").map_or(0, |stat| stat.ino())
}
