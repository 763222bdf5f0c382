//! A backup directory on its file system: its lock, its manifest, the removal of what belongs to no point.
//!
//! Knows no images. The manifest changes from one text to the next with a rename, after the new text is stable and before
//! anybody acts on it; a file that the manifest calls garbage is gone, stably, before it is not called so any more.

use super::manifest::Manifest;
use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";
/// The name of the file that is locked.
pub const LOCK: &str = "lock";
/// Bytes of a manifest, at most: some 100,000 points.
const MANIFEST_MAX: u64 = 64 << 20;

/// A directory that is locked as long as this lives.
pub struct Directory {
    path: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    _lock: Option<File>,
}

/// What is going to be done to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Looking, as others may meanwhile.
    Read,
    /// Changing it, as nobody else may.
    Change,
    /// Changing it; it is made if it is not there.
    Create,
}

impl Directory {
    /// Opens it.
    ///
    /// # Errors
    /// It is none, somebody else is at work in it, or its manifest cannot be read or believed.
    pub fn open(path: &Path, purpose: Purpose) -> Result<Self> {
        let shown = path.display();
        if purpose == Purpose::Create && !is_there(path)? {
            fs::create_dir(path).with_context(|| format!("cannot make the directory '{shown}'"))?;
            sync_directory(super::parent(path))?;
        }
        let path = fs::canonicalize(path).with_context(|| format!("cannot open '{shown}'"))?;
        path.to_str().with_context(|| format!("'{shown}': the path is not valid UTF-8"))?;
        if purpose != Purpose::Create && !is_there(&path.join(MANIFEST))? {
            bail!("'{shown}' is no backup directory: it has no {MANIFEST}");
        }
        if purpose == Purpose::Create {
            check_ours(&path)?;
        }
        let lock = lock(&path, purpose)?;
        let manifest = load(&path).with_context(|| format!("'{shown}/{MANIFEST}'"))?;
        let manifest = manifest.unwrap_or_else(|| Manifest::new(format!("{:08x}", fastrand::u32(..))));
        Ok(Self { path, manifest, _lock: lock })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether a file is in it.
    ///
    /// # Errors
    /// Nobody can tell, which is not the same as no.
    pub fn has(&self, name: &str) -> Result<bool> {
        is_there(&self.file(name))
    }

    /// Makes the manifest stable as it is now.
    ///
    /// # Errors
    /// The storage's. The directory has the manifest from before, or this one.
    pub fn store(&self) -> Result<()> {
        let (new, name) = (self.file(&format!("{MANIFEST}.new")), self.file(MANIFEST));
        let text = self.manifest.text()?;
        // What would not be read again is not written.
        Manifest::parse(&text).context("the manifest would contradict itself")?;
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &name)
        };
        if let Err(error) = write() {
            // Half of it helps nobody, and the next one goes over it in any case.
            let _ = fs::remove_file(&new);
            return Err(error).with_context(|| format!("cannot write '{}'", name.display()));
        }
        sync_directory(&self.path)
    }

    /// Makes the names of all files in it stable.
    ///
    /// # Errors
    /// The storage's.
    pub fn sync(&self) -> Result<()> {
        sync_directory(&self.path)
    }

    /// Removes what belongs to no point.
    ///
    /// # Errors
    /// The storage's. What could not be removed is still known.
    pub fn remove_garbage(&mut self) -> Result<()> {
        if self.manifest.garbage.is_empty() {
            return Ok(());
        }
        for name in &self.manifest.garbage {
            let file = self.path.join(name);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove '{}'", file.display()));
                }
                _ => {}
            }
        }
        self.sync()?;
        self.manifest.garbage.clear();
        self.store()
    }

    /// Bytes that may still be written to its file system.
    ///
    /// # Errors
    /// The system's.
    pub fn available(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&self.path);
        let found = found.with_context(|| format!("cannot ask for the space of '{}'", self.path.display()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().with_context(|| format!("cannot look for '{}'", path.display()))
}

/// Whether a directory is one of backups, or empty enough to become one.
fn check_ours(path: &Path) -> Result<()> {
    let shown = path.display();
    if is_there(&path.join(MANIFEST))? {
        return Ok(());
    }
    let own = |name: &std::ffi::OsStr| name == LOCK || name.to_str() == Some(&format!("{MANIFEST}.new"));
    for entry in fs::read_dir(path).with_context(|| format!("cannot read '{shown}'"))? {
        let name = entry.with_context(|| format!("cannot read '{shown}'"))?.file_name();
        if !own(&name) {
            bail!(
                "'{shown}' is not empty and has no {MANIFEST}: it is no backup directory. Name one that is, or a new one"
            );
        }
    }
    Ok(())
}

fn lock(path: &Path, purpose: Purpose) -> Result<Option<File>> {
    let name = path.join(LOCK);
    let fail = || format!("cannot lock '{}'", path.display());
    let (file, operation) = match purpose {
        Purpose::Read => (File::open(&name), FlockOperation::NonBlockingLockShared),
        _ => {
            let file = OpenOptions::new().create(true).append(true).open(&name);
            (file, FlockOperation::NonBlockingLockExclusive)
        }
    };
    let file = match file {
        // Nobody has ever changed a copy of a directory, which need not have the file.
        Err(error) if purpose == Purpose::Read && error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.with_context(fail)?,
    };
    match flock(&file, operation) {
        Err(Errno::WOULDBLOCK) => bail!("'{}' is in use by another tidemark backup; wait for its end", path.display()),
        locked => locked.with_context(fail)?,
    }
    Ok(Some(file))
}

fn load(path: &Path) -> Result<Option<Manifest>> {
    let file = match File::open(path.join(MANIFEST)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = String::new();
    file.take(MANIFEST_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MANIFEST_MAX {
        bail!("it has more than {MANIFEST_MAX} bytes");
    }
    Manifest::parse(&text).map(Some)
}

/// Makes the names in a directory stable.
///
/// # Errors
/// The storage's.
pub fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot make the names in '{}' stable", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backups");
        (dir, path)
    }

    #[test]
    fn two_runs_do_not_meet_in_one_directory() {
        let (_dir, path) = place();
        let first = Directory::open(&path, Purpose::Create).unwrap();
        first.store().unwrap();
        for purpose in [Purpose::Create, Purpose::Change, Purpose::Read] {
            let error = Directory::open(&path, purpose).err().unwrap().to_string();
            assert!(error.contains("in use by another"), "{error}");
        }
        drop(first);
        let reading = Directory::open(&path, Purpose::Read).unwrap();
        Directory::open(&path, Purpose::Read).unwrap();
        assert!(Directory::open(&path, Purpose::Change).is_err());
        drop(reading);
        Directory::open(&path, Purpose::Change).unwrap();
    }

    #[test]
    fn what_is_no_backup_directory_is_left_alone() {
        let (_dir, path) = place();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("letter"), "dear").unwrap();
        let error = Directory::open(&path, Purpose::Create).err().unwrap().to_string();
        assert!(error.contains("is not empty and has no manifest.json"), "{error}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        let error = Directory::open(&path, Purpose::Read).err().unwrap().to_string();
        assert!(error.contains("no backup directory"), "{error}");
    }

    #[test]
    fn only_what_the_manifest_calls_garbage_is_removed() {
        let (_dir, path) = place();
        let mut directory = Directory::open(&path, Purpose::Create).unwrap();
        for name in ["a", "b", "mine"] {
            fs::write(directory.file(name), name).unwrap();
        }
        directory.manifest.discard(["a", "b", "never-made"].map(str::to_owned));
        directory.store().unwrap();
        drop(directory);
        // Whoever wrote that is gone; the next one knows it from the manifest.
        let mut directory = Directory::open(&path, Purpose::Change).unwrap();
        directory.remove_garbage().unwrap();
        assert!(directory.file("mine").exists() && !directory.file("a").exists() && !directory.file("b").exists());
        drop(directory);
        assert!(Directory::open(&path, Purpose::Read).unwrap().manifest.garbage.is_empty());
    }
}
