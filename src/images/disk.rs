//! An image that a tool works on, opened as a node with all below it, by its path.
//!
//! Names in headers lead where they may when a daemon opens an image, and no further. What goes wrong is said with the
//! file's name, as `qemu-img` says it.

use super::cache::CacheMode;
use crate::image::{Format, is_write_protected};
use crate::inspect;
use anyhow::{Context as _, Result, anyhow, bail};
use qmp_lite::context::Context;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_backend::error::GraphError;
use tidemark_backend::graph::{ImageFormat, InspectError};
use tidemark_backend::io::Memory;
use tidemark_backend::io::lock::Access;
use tidemark_backend::node::options::{
    Backing, ChildRef, Discard, DriverOptions, FileOptions, Locking, Qcow2Options, RawOptions,
};
use tidemark_backend::node::qcow2::image::Image;
use tidemark_backend::node::{Driver, Kind, Node, NodeOptions, Request};

/// How an image is to be opened.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Its format; what its first bytes say if `None`.
    pub format: Option<Format>,
    /// To be written.
    pub writes: bool,
    /// Whoever writes to it meanwhile.
    pub force_share: bool,
    /// Nobody may write to it meanwhile, nor to what is below it.
    pub settled: bool,
    /// How its storage is used.
    pub cache: CacheMode,
    /// As it was at this internal snapshot.
    pub snapshot: Option<&'a str>,
    /// What is below it.
    pub backing: Backing,
}

/// An open image, closed by [`Disk::close`].
pub struct Disk {
    /// Its node.
    pub node: Arc<Node>,
    /// Its file.
    pub path: PathBuf,
    /// What it has of its node and of those below.
    held: Vec<(Arc<Node>, Access)>,
}

impl<'a> Wanted<'a> {
    /// To be read, with all below it.
    pub fn read(path: &'a Path, format: Option<Format>) -> Self {
        Self {
            path,
            format,
            writes: false,
            force_share: false,
            settled: false,
            cache: CacheMode::Writeback,
            snapshot: None,
            backing: Backing::FromHeader,
        }
    }

    /// To be read and written.
    pub fn write(path: &'a Path, format: Option<Format>) -> Self {
        Self { writes: true, ..Self::read(path, format) }
    }

    /// Opens it.
    ///
    /// # Errors
    /// It cannot be opened, is not what it is said to be, or is in use.
    pub fn open(self, context: &Context) -> Result<Disk> {
        let (path, access, settled) = (self.path, self.access(), self.settled);
        let options = self.node_options(context)?;
        let refused = |source| inspect::refusal(&InspectError::Open { path: path.display().to_string(), source });
        let node = context.graph.open(&options).map_err(refused)?;
        let mut disk = Disk { node: node.clone(), path: path.to_owned(), held: Vec::new() };
        let below = node.chain().skip(1).filter(|_| settled);
        let mut held = std::iter::once(node.clone()).chain(below);
        match held.try_for_each(|node| disk.hold(node, access)) {
            Ok(()) => Ok(disk),
            Err(error) => {
                drop((node, held));
                disk.close(context)?;
                Err(refused(error))
            }
        }
    }

    fn access(&self) -> Access {
        match (self.writes, self.settled && !self.force_share) {
            (true, _) => Access::Write,
            // As an image relies on its file.
            (false, true) => Access::Format,
            (false, false) => Access::Read,
        }
    }

    /// What it is opened with, as what its first bytes say that it is if nobody says that.
    ///
    /// # Errors
    /// It cannot be opened, or is not what it is said to be.
    pub fn node_options(self, context: &Context) -> Result<NodeOptions> {
        let path = self.path;
        // Locks are taken when it is opened as a node.
        let looked = context.graph.inspect(path, self.format.map(Format::in_headers), true);
        let looked = looked.map_err(|error| inspect::refusal(&error))?;
        inspect::warn(&looked);
        let format = if looked.description().is_some() { ImageFormat::Qcow2 } else { ImageFormat::Raw };
        drop(looked);
        let device = is_device(path);
        if device && self.writes && is_write_protected(path) {
            bail!("Could not open '{}': The device is not writable: Permission denied", path.display());
        }
        if self.snapshot.is_some() && format == ImageFormat::Raw {
            bail!("Failed to load snapshot: a raw image has none");
        }
        Ok(self.options(format, device))
    }

    fn options(self, format: ImageFormat, device: bool) -> NodeOptions {
        let file = plain(self.path, device);
        let driver = match format {
            ImageFormat::Raw => {
                DriverOptions::Raw(RawOptions { file, offset: 0, size: None, guard_format: self.format.is_none() })
            }
            ImageFormat::Qcow2 => {
                let snapshot = self.snapshot.map(str::to_owned);
                DriverOptions::Qcow2(Box::new(Qcow2Options {
                    backing: self.backing,
                    snapshot,
                    ..Qcow2Options::new(file)
                }))
            }
        };
        NodeOptions {
            node_name: Some(name()),
            read_only: (!self.writes).into(),
            force_share: self.force_share,
            discard: if self.writes { Discard::Unmap } else { Discard::Ignore },
            cache_direct: self.cache.direct().into(),
            cache_no_flush: self.cache.no_flush().into(),
            ..NodeOptions::new(driver)
        }
    }
}

/// A node's name that nobody else has.
fn name() -> String {
    format!("image{}", fastrand::u64(..))
}

/// A file as the storage of an image.
pub fn plain(path: &Path, device: bool) -> ChildRef {
    let file = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device };
    ChildRef::Inline(Box::new(NodeOptions::new(DriverOptions::File(file))))
}

/// Whether it is a block device.
pub fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

impl Disk {
    /// Bytes of the disk.
    pub fn length(&self) -> u64 {
        self.node.length()
    }

    /// The image, if it is one that maps clusters.
    pub fn image(&self) -> Option<&Image> {
        match self.node.driver() {
            Driver::Qcow2(image) => Some(image),
            _ => None,
        }
    }

    /// Bytes of a cluster; 1 of a raw image.
    pub fn cluster(&self) -> u64 {
        self.image().map_or(1, Image::cluster_size)
    }

    /// Its path, for messages.
    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// Makes what was written stable, as far as its cache mode asks for that.
    ///
    /// # Errors
    /// The storage's.
    pub fn flush(&self, context: &Context) -> Result<()> {
        let (node, shown) = (self.node.clone(), self.shown());
        let flushed = context.jobs.ask_async(async move |registry| {
            let flush = Request { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: Memory::empty() };
            node.handle(registry.io(), flush).await.1
        })?;
        flushed.map_err(|error| anyhow!("cannot make '{shown}' stable: {error}"))
    }

    /// Has clusters that are written as a whole compressed from now on.
    ///
    /// # Errors
    /// It is no image that can have such.
    pub fn compress(&self) -> Result<()> {
        let image = self.image().filter(|image| image.can_compress());
        image.context("Compression not supported for this file format")?.begin_compressing();
        Ok(())
    }

    /// Undoes one [`Disk::compress`].
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn end_compressing(&self, context: &Context) -> Result<()> {
        let node = self.node.clone();
        let ended = context.jobs.ask_async(async move |registry| {
            if let Driver::Qcow2(image) = node.driver() {
                image.end_compressing(registry.io()).await;
            }
        });
        Ok(ended?)
    }

    /// Has its file end where the image ends: files grow some way ahead.
    ///
    /// # Errors
    /// There is no thread for it; what cannot be cut off stays.
    pub fn trim(&self, context: &Context) -> Result<()> {
        let node = self.node.clone();
        let trimmed = context.jobs.ask_async(async move |registry| {
            if let Driver::Qcow2(image) = node.driver() {
                image.cut_tail(registry.io(), node.points()).await;
            }
        });
        Ok(trimmed?)
    }

    fn hold(&mut self, node: Arc<Node>, access: Access) -> Result<(), GraphError> {
        node.acquire_for(access)?;
        self.held.push((node, access));
        Ok(())
    }

    /// Closes it.
    ///
    /// # Errors
    /// It is in use.
    pub fn close(self, context: &Context) -> Result<()> {
        let name = self.node.name().to_owned();
        self.held.into_iter().for_each(|(node, access)| node.release_for(access));
        drop(self.node);
        context.graph.close(&name).with_context(|| format!("cannot close '{}'", self.path.display()))
    }
}

/// The format with this name in headers.
///
/// # Errors
/// One that is none of ours.
pub fn format_named(name: &str) -> Result<Format> {
    match name {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        other => Err(anyhow!("Unknown file format '{other}'")),
    }
}
