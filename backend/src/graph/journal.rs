//! The file of an image's change journal: where it is, and how it is opened.

use super::Graph;
use super::image::file_name;
use crate::error::GraphError;
use crate::io::FileTable;
use crate::io::lock::Access;
use crate::node::options::{DriverOptions, FileOptions, Locking};
use crate::node::qcow2::changes::{ChangesOptions, CrashSafe, OpenFile, Wanted};
use crate::node::qcow2::options::Qcow2Options;
use crate::node::{Driver, File, Node, NodeOptions};
use rustix::fs::{Mode, OFlags};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tidemark_cbt::journal::{Head, SECTOR};

/// What is added to an image's name.
const SUFFIX: &str = ".journal";

impl Graph {
    /// How an image in `file` keeps its changes. `has_file` is whether it was not closed and has a journal in a file.
    ///
    /// # Errors
    /// What was asked for has no place; nobody says where the journal is that the image has.
    pub(super) fn changes(
        &self,
        file: &Arc<Node>,
        options: &Qcow2Options,
        has_file: bool,
    ) -> Result<ChangesOptions, GraphError> {
        let image = file_name(file).map(PathBuf::from);
        let beside = image.as_deref().filter(|path| is_regular(path)).map(beside);
        let path = options.change_journal.as_deref().map(absolute).or(beside);
        let demanded = options.crash_safe.is_some() || options.change_journal.is_some();
        let (crash_safe, path) = match (options.crash_safe, path) {
            (wanted, Some(path)) => (wanted.unwrap_or(CrashSafe::Power), path),
            (Some(CrashSafe::Power), None) => {
                let name = image.as_deref().map_or(file.name().into(), Path::to_string_lossy);
                return Err(GraphError::Options(format!(
                    "'{name}' is no regular file: say with 'x-journal' in which file its change journal goes"
                )));
            }
            (None, None) if has_file => {
                return Err(GraphError::Options(format!(
                    "'{}' was not closed, and its bitmaps need its change journal: say with 'x-journal' where that is, \
                     or with 'x-crash-safe' 'off' that it is lost",
                    file.name()
                )));
            }
            // Without a file it survives the process only.
            (wanted, None) => (wanted.unwrap_or(CrashSafe::Process), PathBuf::new()),
        };
        let is_named = options.change_journal.is_some();
        let (files, opened) = (self.files.clone(), Mutex::new(Weak::new()));
        let file: OpenFile = Arc::new(move |wanted| {
            // What was found in it may still be needed: it is locked once.
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(node) = Weak::upgrade(&opened) {
                return Ok(Some(node));
            }
            // A file that somebody has named may be one that he did not mean.
            let wanted = if is_named && wanted == Wanted::Own { Wanted::New } else { wanted };
            let node = open(&path, wanted, &files)?;
            *opened = node.as_ref().map(Arc::downgrade).unwrap_or_default();
            Ok(node)
        });
        Ok(ChangesOptions { crash_safe, demanded, file })
    }
}

/// Opens a journal's file, which nobody else may have: also the last write of a daemon that was killed has ended then.
fn open(path: &Path, wanted: Wanted, files: &Arc<FileTable>) -> Result<Option<Arc<Node>>, GraphError> {
    let name = path.display().to_string();
    let fail = |source| GraphError::Open { path: name.clone(), source };
    let is_there = match std::fs::symlink_metadata(path) {
        Ok(stat) if !stat.is_file() => {
            return Err(GraphError::Options(format!("'{name}' is no regular file and cannot be a change journal")));
        }
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(fail(error)),
    };
    match wanted {
        Wanted::Found if !is_there => return Ok(None),
        Wanted::New if is_there && !may_be_overwritten(path).map_err(fail)? => {
            return Err(GraphError::Options(format!(
                "'{name}' is there and is no change journal: remove it, or name another file with 'x-journal'"
            )));
        }
        Wanted::New | Wanted::Own if !is_there => make(path).map_err(fail)?,
        _ => {}
    }
    let plain = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device: false };
    let options = NodeOptions::new(DriverOptions::File(plain.clone()));
    let (file, length) = File::open(&options, &plain, files)?;
    file.lock(Access::Image)?;
    Ok(Some(Arc::new(Node::new(name, false, &options, length, Driver::File(file)))))
}

/// Whether nothing else than a journal is there.
fn may_be_overwritten(path: &Path) -> io::Result<bool> {
    let mut heads = Vec::new();
    std::fs::File::open(path)?.take(2 * SECTOR as u64).read_to_end(&mut heads)?;
    Ok(heads.is_empty() || heads.chunks(SECTOR).any(Head::is_one))
}

/// The journal's file if nothing else is said: that of the image, whatever leads to it, and a suffix.
fn beside(image: &Path) -> PathBuf {
    let image = std::fs::canonicalize(image).unwrap_or_else(|_| image.to_owned());
    let mut name = image.into_os_string();
    name.push(SUFFIX);
    name.into()
}

/// A path that stays right in another directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn is_regular(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|stat| stat.is_file())
}

/// Makes the file if it is not there; its name in the directory is stable then.
fn make(path: &Path) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}
