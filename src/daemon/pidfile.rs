//! The file with the process id: locked as long as the process runs, removed at its end.

use anyhow::{Context as _, anyhow};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tidemark_backend::error::errno_text;

/// The file. It goes when this is dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl PidFile {
    /// Writes our process id to `path`.
    ///
    /// # Errors
    /// The file cannot be written, or another running process has its id in it.
    pub fn write(path: &str) -> anyhow::Result<Self> {
        // The daemon may leave the current directory before the file is removed.
        let absolute = std::path::absolute(path).context("there is no current directory")?;
        loop {
            let mut file = open(path)?;
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
                .map_err(|error| anyhow!("Cannot lock pid file: {}", errno_text(&error.into())))?;
            // Its last owner may have removed it before we had the lock.
            if is_same(&file, &absolute) {
                file.set_len(0).context("Failed to truncate pid file")?;
                writeln!(file, "{}", std::process::id()).context("Failed to write pid file")?;
                return Ok(Self { path: absolute, _file: file });
            }
        }
    }
}

fn open(path: &str) -> anyhow::Result<File> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    fd.map(File::from).map_err(|error| anyhow!("Could not create '{path}': {}", errno_text(&error.into())))
}

fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (rustix::fs::fstat(file), rustix::fs::stat(path)) else { return false };
    (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it before us.
        let _ = std::fs::remove_file(&self.path);
    }
}
