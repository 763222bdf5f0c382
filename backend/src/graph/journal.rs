//! The file of an image's change journal: where it is, and how it is opened.

use super::Graph;
use super::image::file_name;
use crate::error::GraphError;
use crate::node::options::{DriverOptions, FileOptions, Locking};
use crate::node::qcow2::changes::{ChangesOptions, CrashSafe, OpenFile};
use crate::node::qcow2::options::Qcow2Options;
use crate::node::{Driver, File, Node, NodeOptions};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is added to an image's name.
const SUFFIX: &str = ".journal";

impl Graph {
    /// How an image in `file` keeps its changes, if it is to: `None` where there is no place for a journal and nobody
    /// asked for one.
    ///
    /// # Errors
    /// What was asked for has no place.
    pub(super) fn changes(
        &self,
        file: &Arc<Node>,
        options: &Qcow2Options,
    ) -> Result<Option<ChangesOptions>, GraphError> {
        let image = file_name(file).map(PathBuf::from);
        let beside = image.as_deref().filter(|path| is_regular(path)).map(beside);
        let path = options.change_journal.clone().or(beside);
        let (crash_safe, path) = match (options.crash_safe, path) {
            (wanted, Some(path)) => (wanted, path),
            (Some(CrashSafe::Power), None) => {
                let name = image.as_deref().map_or(file.name().into(), Path::to_string_lossy);
                return Err(GraphError::Options(format!(
                    "'{name}' is no regular file: say with 'x-journal' in which file its change journal goes"
                )));
            }
            (Some(wanted), None) => (Some(wanted), PathBuf::new()),
            // Without a file it survives the process only.
            (None, None) => (Some(CrashSafe::Process), PathBuf::new()),
        };
        let files = self.files.clone();
        let file: OpenFile = Arc::new(move |create| {
            if create {
                make(&path).map_err(|source| GraphError::Open { path: path.display().to_string(), source })?;
            } else if !path.exists() {
                return Ok(None);
            }
            let options = NodeOptions::new(DriverOptions::File(FileOptions {
                filename: path.clone(),
                locking: Locking::Off,
                device: false,
            }));
            let DriverOptions::File(plain) = &options.driver else { return Ok(None) };
            let (file, length) = File::open(&options, plain, &files)?;
            Ok(Some(Arc::new(Node::new(path.display().to_string(), false, &options, length, Driver::File(file)))))
        });
        Ok(Some(ChangesOptions { crash_safe, file }))
    }
}

/// The journal's file if nothing else is said: that of the image, and a suffix.
fn beside(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

fn is_regular(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|stat| stat.file_type().is_file() && !stat.file_type().is_block_device())
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
