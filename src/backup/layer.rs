//! The images of a backup directory as nodes: one by itself, or with all below it; and what is in them, run by run.
//!
//! Headers are compared with the manifest before any image is opened with what is below it: a name in a header that the
//! manifest does not have leads nowhere.

use super::directory::Directory;
use super::manifest::{BLOCK, Entry};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use qmp_lite::context::Context;
use std::path::Path;
use std::sync::Arc;
use tidemark_backend::error::IoError;
use tidemark_backend::graph::{ImageFormat, InspectError};
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::options::{
    Backing, ChildRef, DetectZeroes, Discard, DriverOptions, FileOptions, Locking, Qcow2Options,
};
use tidemark_backend::node::qcow2::create::{CreateOptions, layout};
use tidemark_backend::node::{Node, NodeOptions, Status};
use tidemark_backend::reactor::Handle;

/// Bytes that are read and written at a time.
pub const PIECE: u64 = 1 << 20;
/// Bytes that an image is asked about at a time.
const LOOK: u64 = 1 << 30;

/// What the images are called in headers.
pub const FORMAT: &str = "qcow2";

/// An open image, closed by [`Layer::close`].
pub struct Layer {
    /// Its node.
    pub node: Arc<Node>,
    access: Access,
}

/// With what an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// With nothing.
    Nothing,
    /// With what its header names.
    Chain,
}

impl Layer {
    /// Opens an image for reading.
    ///
    /// # Errors
    /// It cannot be opened, or somebody writes to it.
    pub fn open(context: &Context, path: &Path, below: Below) -> Result<Self> {
        Self::with(context, path, below, Access::Read)
    }

    /// Opens an image to be changed, by itself.
    ///
    /// # Errors
    /// As [`Layer::open`].
    pub fn change(context: &Context, path: &Path) -> Result<Self> {
        Self::with(context, path, Below::Nothing, Access::Write)
    }

    fn with(context: &Context, path: &Path, below: Below, access: Access) -> Result<Self> {
        let backing = match below {
            Below::Nothing => Backing::None,
            Below::Chain => Backing::FromHeader,
        };
        let qcow2 = Qcow2Options { backing, ..Qcow2Options::new(file(path, false)) };
        let options = NodeOptions::new(DriverOptions::Qcow2(Box::new(qcow2)));
        Self::take(context, path, options, access)
    }

    /// Opens a raw file or block device to be written, zeroes as holes.
    ///
    /// # Errors
    /// As [`Layer::open`].
    pub fn raw(context: &Context, path: &Path, device: bool) -> Result<Self> {
        let driver = DriverOptions::File(FileOptions { filename: path.to_owned(), locking: Locking::Auto, device });
        Self::take(context, path, NodeOptions::new(driver), Access::Write)
    }

    fn take(context: &Context, path: &Path, options: NodeOptions, access: Access) -> Result<Self> {
        let writes = access == Access::Write;
        let options = NodeOptions {
            node_name: Some(format!("image{}", fastrand::u64(..))),
            read_only: (!writes).into(),
            discard: if writes { Discard::Unmap } else { Discard::Ignore },
            detect_zeroes: if writes { DetectZeroes::Unmap } else { DetectZeroes::Off },
            ..options
        };
        let refused =
            |source| crate::inspect::refusal(&InspectError::Open { path: path.display().to_string(), source });
        let node = context.graph.open(&options).map_err(refused)?;
        if let Err(error) = node.acquire_for(access) {
            let name = node.name().to_owned();
            drop(node);
            context.graph.close(&name)?;
            return Err(refused(error));
        }
        Ok(Self { node, access })
    }

    /// Closes it.
    ///
    /// # Errors
    /// What was left to be written could not be.
    pub fn close(self, context: &Context) -> Result<()> {
        let name = self.node.name().to_owned();
        self.node.release_for(self.access);
        drop(self.node);
        Ok(context.graph.close(&name)?)
    }
}

/// A file as the storage of an image.
fn file(path: &Path, device: bool) -> ChildRef {
    let file = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device };
    ChildRef::Inline(Box::new(NodeOptions { discard: Discard::Unmap, ..NodeOptions::new(DriverOptions::File(file)) }))
}

/// Makes an empty image of `size` bytes, stably but for its name, above `parent` if there is one.
///
/// # Errors
/// There is a file of that name, or the storage's.
pub fn create(path: &Path, size: u64, parent: Option<&str>) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let options = CreateOptions {
        size,
        cluster_size: BLOCK,
        backing: parent.map(str::to_owned),
        backing_format: parent.map(|_| FORMAT.to_owned()),
        ..CreateOptions::default()
    };
    let layout = layout(&options)?;
    let write = || {
        let file = std::fs::File::create_new(path)?;
        file.set_len(layout.length)?;
        for (offset, bytes) in layout.writes() {
            file.write_all_at(&bytes, offset)?;
        }
        file.sync_all()
    };
    write().with_context(|| format!("cannot create '{}'", path.display()))
}

/// The name below that an image has in its header, if it is one of `size` bytes.
///
/// # Errors
/// It is none, or not readable.
fn link(context: &Context, path: &Path, size: u64) -> Result<Option<String>> {
    let inspected = context.graph.inspect(path, Some(ImageFormat::Qcow2), false);
    let inspected = inspected.map_err(|error| crate::inspect::refusal(&error))?;
    let header = &inspected.description().context("it is no qcow2 image")?.header;
    ensure!(header.size == size, "'{}' is of a disk of {} bytes and not of {size}", path.display(), header.size);
    let Some(backing) = &header.backing else { return Ok(None) };
    let format = backing.format.as_deref();
    ensure!(format == Some(FORMAT), "'{}' does not say that the image below it is qcow2", path.display());
    Ok(Some(backing.file.clone()))
}

/// Whether the images of a chain are there and lead to each other, the full backup first. One whose older images are
/// being merged leads to them until it is one.
///
/// # Errors
/// They are not; the text names the file.
pub fn check_chain(context: &Context, directory: &Directory, chain: &[&Entry]) -> Result<()> {
    for entry in chain {
        check_links(context, directory, entry)?;
    }
    Ok(())
}

/// As [`check_chain`], of one image.
///
/// # Errors
/// As [`check_chain`].
pub fn check_links(context: &Context, directory: &Directory, entry: &Entry) -> Result<()> {
    let expect = |file: &str, parent: Option<&str>| {
        let path = directory.file(file);
        ensure!(directory.has(file)?, "'{}' is missing", path.display());
        let found = link(context, &path, entry.size)?;
        if found.as_deref() != parent {
            let say = |name: Option<&str>| name.map_or("none".to_owned(), |name| format!("'{name}'"));
            let (found, parent) = (say(found.as_deref()), say(parent));
            bail!("'{}': the image below it is {found}, and should be {parent}", path.display());
        }
        Ok(())
    };
    match &entry.merging {
        Some(merging) if directory.has(&merging.base)? => {
            let mut below = None;
            for file in std::iter::once(&merging.base).chain(&merging.layers).chain([&entry.file]) {
                expect(file, below)?;
                below = Some(file);
            }
            Ok(())
        }
        Some(_) => expect(&entry.file, None),
        None => expect(&entry.file, entry.parent.as_deref()),
    }
}

/// What a run of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Not in it.
    Absent,
    /// Zeroes.
    Zero,
    /// Data, which may be zeroes.
    Data,
}

/// What an image itself has at `offset`, or with what is below it: whole blocks, but for the disk's last one.
///
/// # Errors
/// The storage's, or the image is corrupt.
pub async fn run_at(io: &Handle, node: &Node, below: Below, offset: u64) -> Result<(u64, Run), IoError> {
    let rest = node.length().saturating_sub(offset);
    let Status { len, zero, depth, .. } = node.status(io, offset, rest.min(LOOK)).await?;
    let run = match (below, depth, zero) {
        (Below::Nothing, 0, _) => Run::Absent,
        (_, _, true) => Run::Zero,
        (_, _, false) => Run::Data,
    };
    if len >= rest {
        return Ok((rest, run));
    }
    // What is not a whole block is read.
    match len - len % BLOCK {
        0 => Ok((rest.min(BLOCK), Run::Data)),
        whole => Ok((whole, run)),
    }
}

/// Why an image could not be read or written.
pub fn failed(action: &str, path: &Path, offset: u64, error: IoError) -> anyhow::Error {
    anyhow!("cannot {action} '{}' at offset {offset} of the disk: {error}", path.display())
}
