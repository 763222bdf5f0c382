//! `tidemark track`: a raw disk gets bitmaps that outlive the daemon, in a qcow2 image beside it.
//!
//! The image's clusters are the disk's own bytes, each at its own place (`data_file_raw`): whoever opens the image has
//! the disk with its bitmaps, and whoever opens the disk has the disk. All clusters are mapped from the start, because
//! QEMU reads zeroes where they are not. The disk is locked while the image is made, and no byte of it changes; the
//! image is under its name when it is complete, or not at all.

mod disk;
mod meta;

use crate::bitmap::{self, Bytes};
use crate::inspect;
use crate::logging::{self, Level};
use anyhow::{Context as _, bail};
use disk::TrackedDisk;
use qmp_lite::context::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_backend::graph::InspectError;
use tidemark_backend::node::options::{ChildRef, DriverOptions, FileOptions, Locking, NullOptions, Qcow2Options};
use tidemark_backend::node::{Node, NodeOptions};
use tidemark_jobs::action::Action;

/// Options of `tidemark track`.
#[derive(clap::Args, Debug)]
pub struct TrackOptions {
    /// Raw disk: a file or a block device.
    disk: PathBuf,
    /// The image to make, which must not exist. The default for a file is its name with `.track.qcow2` appended; a block
    /// device has none.
    #[arg(long, value_name = "PATH")]
    meta: Option<PathBuf>,
    /// Name of the first bitmap.
    #[arg(long, value_name = "NAME", default_value = "backup")]
    bitmap: String,
    /// Bytes that a bit of it stands for, also with k, M or G: a power of 2, at least 512.
    #[arg(short, long, value_name = "SIZE", default_value = "64k")]
    granularity: Bytes,
    /// Make no image, but say that the disk's content is what it was when its image was closed: both were moved or copied,
    /// and the bitmaps are to be believed.
    #[arg(long, conflicts_with_all = ["bitmap", "granularity"])]
    adopt: bool,
}

/// Makes the image.
///
/// # Errors
/// The disk is none, or in use; the image is there already, or cannot be made. There is none then.
pub fn run(options: &TrackOptions) -> anyhow::Result<()> {
    logging::start(Some(Level::Warn));
    let disk = TrackedDisk::find(&options.disk)?;
    if options.adopt {
        return adopt(&disk, &meta::named(&disk, options.meta.as_deref())?);
    }
    let path = meta::path(&disk, options.meta.as_deref())?;
    let made = meta::make(&disk, &path)?;
    add_bitmap(options, &disk, made.path())?;
    meta::publish(made, &path)?;
    let (disk, meta, bitmap) = (disk.path.display(), path.display(), &options.bitmap);
    inspect::print(&format!(
        "'{disk}' is tracked in '{meta}', bitmap '{bitmap}'.\nFrom now on write to it only through that image:\n    \
         tidemark serve {disk} --meta {meta}\n"
    ))
}

/// Lets the image forget in which state it has left the disk.
fn adopt(disk: &TrackedDisk, meta: &Path) -> anyhow::Result<()> {
    let context = Context::new();
    let nothing =
        NullOptions { size: disk.size.next_multiple_of(meta::CLUSTER_BYTES), read_zeroes: false, latency_ns: 0 };
    let nothing = ChildRef::Inline(Box::new(NodeOptions::new(DriverOptions::Null(nothing))));
    let node = open(&context, nothing, meta, meta)?;
    let length = node.length();
    bitmap::close(&context, node)?;
    let (disk_path, meta) = (disk.path.display(), meta.display());
    if length != disk.size {
        bail!("'{meta}' tracks a disk of {length} bytes, and '{disk_path}' has {}: it is another disk", disk.size);
    }
    inspect::print(&format!("The bitmaps in '{meta}' are those of '{disk_path}' as it is now.\n"))
}

/// Adds the first bitmap to the image, while nobody else has the disk.
fn add_bitmap(options: &TrackOptions, disk: &TrackedDisk, meta: &Path) -> anyhow::Result<()> {
    let context = Context::new();
    let node = open(&context, file(&disk.path, disk.is_device), meta, &disk.path)?;
    let action = Action::BitmapAdd {
        node: node.name().to_owned(),
        name: options.bitmap.clone(),
        granularity: Some(options.granularity.0),
        persistent: true,
        disabled: false,
    };
    let added = bitmap::apply(&context, &disk.path, action).with_context(|| {
        let (disk, bitmap) = (disk.path.display(), &options.bitmap);
        format!("'{disk}' cannot have the bitmap '{bitmap}'")
    });
    let stored = added.and_then(|()| bitmap::store(&context, &node));
    bitmap::close(&context, node)?;
    stored
}

fn file(path: &Path, device: bool) -> ChildRef {
    let file = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device };
    ChildRef::Inline(Box::new(NodeOptions::new(DriverOptions::File(file))))
}

/// Opens the image for its bitmaps, with this as its data file. What goes wrong is said of `blamed`.
fn open(context: &Context, data_file: ChildRef, meta: &Path, blamed: &Path) -> anyhow::Result<Arc<Node>> {
    let qcow2 = Qcow2Options { data_file: Some(data_file), bitmaps_only: true, ..Qcow2Options::new(file(meta, false)) };
    let options =
        NodeOptions { node_name: Some("image".to_owned()), ..NodeOptions::new(DriverOptions::Qcow2(Box::new(qcow2))) };
    let node = context.graph.open(&options);
    node.map_err(|source| inspect::refusal(&InspectError::Open { path: blamed.display().to_string(), source }))
}
