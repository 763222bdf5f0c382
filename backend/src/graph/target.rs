//! The image that a job copies to, named by its file: made for the job or there already, opened for it and closed with it.
//!
//! Rules and texts are those of QEMU's `drive-backup`. A file is truncated only when nobody else has it; one that was made
//! stays, whatever becomes of the job.

use super::Graph;
use super::backing_name::{Coming, backing_format, backing_name, is_same};
use super::create::{CreateFile, CreateImage, Creation, FilePreallocation};
use super::image::file_name;
use super::inspect::ImageFormat;
use crate::error::GraphError;
use crate::node::options::{
    Backing, ChildRef, DetectZeroes, Discard, DriverOptions, FileOptions, Locking, Qcow2Options, RawOptions,
};
use crate::node::qcow2::create::CreateOptions;
use crate::node::{Driver, Hold, Node, NodeOptions};
use rustix::fs::{fstat, stat};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Formats that there are, of which no image is made.
const NOT_MADE: [&str; 7] =
    ["blkdebug", "copy-before-write", "copy-on-read", "nbd", "null-co", "snapshot-access", "throttle"];

/// An image to be copied to.
#[derive(Clone, Debug)]
pub struct NewTarget {
    /// Its file, as QEMU lets it be named.
    pub path: String,
    /// Its format; what its first bytes say if `None`, which only [`NewTarget::existing`] can be without.
    pub format: Option<String>,
    /// It is there already.
    pub existing: bool,
    /// The name that its node gets; made up if `None`.
    pub node_name: Option<String>,
    /// What it shows where it has nothing: a node. Nothing, or what its own header says, if `None`.
    pub backing: Option<Arc<Node>>,
    /// Whether it has to: one that is no image is refused.
    pub shows_backing: bool,
    /// Whether that is opened by its file's name beside, as by whoever opens the target later: nobody may write to it.
    pub opens_backing: bool,
    /// Whether discards reach its file.
    pub unmap: bool,
    /// Whether what is written of zeroes becomes holes there, if discards do.
    pub detect_zeroes: bool,
}

/// What a file is opened as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    /// As it is.
    File,
    /// The same, by a node of its own; the first sector is guarded if nobody said so.
    Raw { guarded: bool },
    /// An image.
    Qcow2,
}

impl Graph {
    /// Makes it, as long as `source`, unless it is there, and opens it with what `source` has of cache modes. What takes
    /// I/O is done on this thread.
    ///
    /// # Errors
    /// With QEMU's texts. A file that was made stays.
    pub fn open_target(&self, source: &Arc<Node>, new: &NewTarget) -> Result<Arc<Node>, GraphError> {
        let path = path(&new.path)?;
        let format = match (&new.format, new.existing) {
            (Some(format), existing) => known(format, existing)?,
            (None, true) => self.probed(&path)?,
            (None, false) => return Err(GraphError::Options("Unknown file format ''".into())),
        };
        if !new.existing {
            self.make_target(source, new, &path, format)?;
        }
        let options = NodeOptions {
            node_name: new.node_name.clone(),
            cache_direct: source.cache_direct().into(),
            cache_no_flush: source.cache_no_flush().into(),
            discard: if new.unmap { Discard::Unmap } else { Discard::Ignore },
            detect_zeroes: if new.unmap && new.detect_zeroes { DetectZeroes::Unmap } else { DetectZeroes::Off },
            ..NodeOptions::new(driver(&path, format, new.backing.as_ref()))
        };
        let node = self.open_as(&options, false, &self.ring())?;
        match check_other(source, &path).and_then(|()| check_backing(&node, new)) {
            Ok(()) => Ok(node),
            Err(error) => {
                self.let_go(node);
                Err(error)
            }
        }
    }

    /// What the first bytes of a file say.
    fn probed(&self, path: &Path) -> Result<Format, GraphError> {
        let file = self.look_at(path, true)?;
        Ok(match self.format_of(&file)? {
            ImageFormat::Raw => Format::Raw { guarded: true },
            ImageFormat::Qcow2 => Format::Qcow2,
        })
    }

    fn make_target(&self, source: &Arc<Node>, new: &NewTarget, path: &Path, format: Format) -> Result<(), GraphError> {
        let name = new.format.as_deref().unwrap_or_default();
        let backing = match (&new.backing, format) {
            (None, _) => None,
            (Some(backing), Format::Qcow2) => Some(header_name(backing, path)?),
            (Some(_), _) => {
                return Err(GraphError::Options(format!("Backing file not supported for file format '{name}'")));
            }
        };
        if let Some(below) = new.backing.as_ref().filter(|_| new.opens_backing).and_then(file_name) {
            let opened = self.look_at(Path::new(&below), false);
            let held = opened.and_then(|file| Hold::of_format(&file, "target", "backing", false));
            held.map_err(|error| GraphError::Options(format!("Could not open backing file: {error}")))?;
        }
        check_other(source, path)?;
        if !is_device(path) {
            let size = if format == Format::Qcow2 { 0 } else { source.length() };
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            let file = CreateFile { filename: path.to_owned(), size, preallocation: FilePreallocation::Off };
            self.create(&Creation::File(file))?;
        }
        if format != Format::Qcow2 {
            return Ok(());
        }
        let (backing, backing_format) = backing.unzip();
        let options = CreateOptions { size: source.length(), backing, backing_format, ..CreateOptions::default() };
        let file = inline(file(path));
        self.create(&Creation::Image(Box::new(CreateImage { file, data_file: None, options })))
    }
}

/// The path that a name stands for, which may say the protocol.
fn path(name: &str) -> Result<PathBuf, GraphError> {
    let refuse = |text: String| Err(GraphError::Options(text));
    let protocol = name.find([':', '/']).filter(|at| name.as_bytes().get(*at) == Some(&b':'));
    match protocol.map(|at| name.split_at(at)) {
        None => Ok(name.into()),
        Some(("file" | "host_device", rest)) => Ok(rest.trim_start_matches(':').into()),
        Some(("nbd" | "nbd+unix" | "nbds" | "nbds+unix", _)) => refuse(format!(
            "'{name}' is no file: open the server's disk with blockdev-add, and give its node as target of \
             blockdev-backup or blockdev-mirror"
        )),
        Some((protocol, _)) => refuse(format!("Unknown protocol '{protocol}'")),
    }
}

/// Refuses a file that the source reads, which whoever makes it anew would empty.
fn check_other(source: &Arc<Node>, path: &Path) -> Result<(), GraphError> {
    let Ok(wanted) = stat(path) else { return Ok(()) };
    let mut nodes = vec![source.clone()];
    while let Some(node) = nodes.pop() {
        let opened = match node.driver() {
            Driver::File(file) => file.fd().ok().and_then(|fd| fstat(fd).ok()),
            _ => None,
        };
        if opened.is_some_and(|opened| (opened.st_dev, opened.st_ino) == (wanted.st_dev, wanted.st_ino)) {
            return Err(GraphError::Options("Could not replace node: Failed to get shared \"write\" lock".into()));
        }
        nodes.extend(node.adopted());
    }
    Ok(())
}

/// Refuses a target that is no image if it has to show something from below.
fn check_backing(node: &Node, new: &NewTarget) -> Result<(), GraphError> {
    if !new.shows_backing || matches!(node.driver(), Driver::Qcow2(_)) {
        return Ok(());
    }
    let (driver, name) = (node.driver_name(), node.name());
    Err(GraphError::Options(format!("Driver '{driver}' of node '{name}' does not support backing files")))
}

fn known(name: &str, existing: bool) -> Result<Format, GraphError> {
    match name {
        "file" | "host_device" => Ok(Format::File),
        "raw" => Ok(Format::Raw { guarded: false }),
        "qcow2" => Ok(Format::Qcow2),
        name if existing => Err(GraphError::Options(format!("Unknown driver '{name}'"))),
        name if NOT_MADE.contains(&name) => {
            Err(GraphError::Options(format!("Format driver '{name}' does not support image creation")))
        }
        name => Err(GraphError::Options(format!("Unknown file format '{name}'"))),
    }
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

fn file(path: &Path) -> DriverOptions {
    DriverOptions::File(FileOptions { filename: path.to_owned(), locking: Locking::Auto, device: is_device(path) })
}

fn inline(driver: DriverOptions) -> ChildRef {
    ChildRef::Inline(Box::new(NodeOptions::new(driver)))
}

fn driver(path: &Path, format: Format, backing: Option<&Arc<Node>>) -> DriverOptions {
    let file = file(path);
    match format {
        Format::File => file,
        Format::Raw { guarded } => {
            DriverOptions::Raw(RawOptions { file: inline(file), offset: 0, size: None, guard_format: guarded })
        }
        Format::Qcow2 => {
            let named = |node: &Arc<Node>| Backing::Node(ChildRef::Name(node.name().to_owned()));
            let backing = backing.map_or(Backing::FromHeader, named);
            DriverOptions::Qcow2(Box::new(Qcow2Options { backing, ..Qcow2Options::new(inline(file)) }))
        }
    }
}

/// What the header of an image at `path` says of `node`: a name and the format.
fn header_name(node: &Arc<Node>, path: &Path) -> Result<(String, String), GraphError> {
    if file_name(node).is_some_and(|below| is_same(Path::new(&below), path)) {
        let text = "Error: Trying to create an image with the same filename as the backing file";
        return Err(GraphError::Options(text.into()));
    }
    Ok((backing_name(node, path, &Coming::default())?, backing_format(node).to_owned()))
}
