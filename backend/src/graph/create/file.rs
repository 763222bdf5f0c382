//! A new regular file, or an old one that is emptied. Knows no nodes; takes the locks that QEMU takes meanwhile.

use crate::error::{GraphError, errno_text};
use crate::io::lock::{Access, Lock};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of zeroes written at a time.
const PIECE: usize = 1 << 20;

/// A file to be made.
#[derive(Clone, Debug)]
pub struct CreateFile {
    /// Its path.
    pub filename: PathBuf,
    /// Its length in bytes; less than none is refused.
    pub size: i64,
    /// What space it takes from the start.
    pub preallocation: FilePreallocation,
}

/// What space a new file takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilePreallocation {
    /// None: it is a hole.
    #[default]
    Off,
    /// Not for files.
    Metadata,
    /// All, as the file system reserves it.
    Falloc,
    /// All, by writing zeroes.
    Full,
}

impl CreateFile {
    /// Makes it.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub(super) fn create(&self) -> Result<(), GraphError> {
        if self.preallocation == FilePreallocation::Metadata {
            return Err(GraphError::Options("Unsupported preallocation mode: metadata".into()));
        }
        let path = self.filename.display().to_string();
        let fail = |what, error: rustix::io::Errno| GraphError::File { what, path: path.clone(), source: error.into() };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.filename, flags, Mode::from_raw_mode(0o644));
        let fd = Arc::new(fd.map_err(|error| fail("Could not create", error))?);
        let lock = Lock::new(fd.clone(), path.clone(), false);
        // They end with the description.
        lock.acquire(Access::Target)?;
        lock.acquire(Access::Resize)?;
        let made = self.fill(&fd);
        made.map_err(|(what, error)| GraphError::Options(format!("{what}: {}", errno_text(&error))))
    }

    fn fill(&self, fd: &OwnedFd) -> Result<(), (&'static str, io::Error)> {
        let step = |what| move |error: rustix::io::Errno| (what, io::Error::from(error));
        let resizing = "Could not resize file";
        let size = u64::try_from(self.size).map_err(|_| step(resizing)(rustix::io::Errno::INVAL))?;
        rustix::fs::ftruncate(fd, 0).map_err(step(resizing))?;
        match self.preallocation {
            FilePreallocation::Falloc if size > 0 => {
                let reserved = rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size);
                reserved.map_err(step("Could not preallocate data for the new file"))?;
            }
            FilePreallocation::Full => {
                write_zeroes(fd, size).map_err(step("Could not write zeros for preallocation"))?
            }
            FilePreallocation::Off | FilePreallocation::Metadata | FilePreallocation::Falloc => {}
        }
        rustix::fs::ftruncate(fd, size).map_err(step(resizing))
    }
}

fn write_zeroes(fd: &OwnedFd, size: u64) -> rustix::io::Result<()> {
    let zeroes = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let piece = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
        at += rustix::io::pwrite(fd, &zeroes[..piece], at)? as u64;
    }
    rustix::fs::fsync(fd)
}
