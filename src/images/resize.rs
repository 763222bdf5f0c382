//! `tidemark resize`: another size of an image's disk, as `qemu-img resize` has it.

use super::copy::failed;
use super::disk::{Disk, Wanted};
use super::size::Change;
use crate::image::Format;
use crate::inspect;
use crate::logging::{self, Level};
use anyhow::{Result, anyhow, bail, ensure};
use clap::ValueEnum;
use qmp_lite::context::Context;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_backend::error::IoError;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::{Driver, Kind, Node, Request};
use tidemark_backend::reactor::Handle;
use tidemark_jobs::resize::resize as jobs_resize;

/// Bytes of zeroes that are written at a time.
const PIECE: u64 = 1 << 20;

/// What space a disk takes for what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Space {
    /// None.
    Off,
    /// A place in the file for every cluster; of qcow2 images.
    Metadata,
    /// As the file system reserves it.
    Falloc,
    /// By writing zeroes.
    Full,
}

/// Options of `tidemark resize`.
#[derive(clap::Args, Debug)]
pub struct ResizeOptions {
    /// Format of the image. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short, long, value_enum)]
    format: Option<Format>,
    /// Take away what is past the new end.
    #[arg(long)]
    shrink: bool,
    /// What space a longer disk takes for what is new.
    #[arg(long, value_enum, default_value = "off")]
    preallocation: Space,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
    /// Say nothing.
    #[arg(short, long)]
    quiet: bool,
    /// Image file or block device.
    image: PathBuf,
    /// Bytes of the disk, also with k, M, G, T, P or E; with + or - before them so many more or less.
    #[arg(value_name = "[+-]SIZE", allow_hyphen_values = true)]
    size: String,
}

/// Resizes an image.
///
/// # Errors
/// It cannot have that size; nothing has changed then, or the text says what.
pub fn run(options: &ResizeOptions) -> Result<()> {
    logging::start(Some(Level::Warn));
    let change = options.size.parse().map_err(|_| anyhow!(super::options::not_a_number("size")))?;
    let context = Context::new();
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let disk = Wanted::write(&options.image, options.format).open(&context)?;
    let resized = resize(&context, options, &disk, change);
    disk.close(&context)?;
    let size = resized?;
    let (image, shown) = (options.image.display(), crate::info::size::size(size));
    if options.quiet { Ok(()) } else { inspect::print(&format!("'{image}': {shown} ({size} bytes)\n")) }
}

/// Does it; returns the size.
fn resize(context: &Context, options: &ResizeOptions, disk: &Disk, change: Change) -> Result<u64> {
    let before = disk.length();
    let size = change.of(before).ok_or_else(|| anyhow!("New image size must be positive"))?;
    if size < before && !options.shrink {
        bail!(
            "Use the --shrink option to perform a shrink operation.\ntidemark: warning: Shrinking an image will delete all \
             data beyond the shrunken image's end. Before performing such an operation, make sure there is no important \
             data there."
        );
    }
    let space = options.preallocation;
    ensure!(size > before || space == Space::Off, "Preallocation can only be used for growing images");
    ensure!(space != Space::Metadata || disk.image().is_some(), "Unsupported preallocation mode 'metadata'");
    let change = |size| jobs_resize(&context.jobs, &context.graph, &disk.node, size);
    change(size).map_err(|error| anyhow!("{error}"))?;
    let node = disk.node.clone();
    let filled = context.jobs.ask_async(async move |registry| fill(registry.io(), &node, before, space).await)?;
    if let Err((at, error)) = filled {
        let error = failed("write", &disk.shown(), at, error);
        return Err(match change(before) {
            Ok(()) => error.context("the disk is as long as it was"),
            Err(_) => error.context(format!("the disk has {size} bytes now, for which there is no room")),
        });
    }
    let found = disk.length();
    // A device has the size it has.
    ensure!(
        found.next_multiple_of(512) == size.next_multiple_of(512),
        "Image was not resized; resizing may not be supported for this image"
    );
    Ok(size)
}

/// Takes space for what comes after `before`.
async fn fill(io: &Handle, node: &Arc<Node>, before: u64, space: Space) -> Result<(), (u64, IoError)> {
    let end = node.length();
    match (space, node.driver()) {
        (Space::Off, _) => Ok(()),
        (Space::Metadata | Space::Falloc, Driver::Qcow2(image)) => {
            // The rest of a cluster is part of what was there before.
            let whole = before.next_multiple_of(image.cluster_size()).min(end);
            write_zeroes(io, node, before..whole).await?;
            let placed = image.preallocate(io, (whole, end - whole), space == Space::Falloc, node.points()).await;
            placed.map_err(|error| (whole, error))
        }
        (Space::Full, _) => write_zeroes(io, node, before..end).await,
        (Space::Metadata | Space::Falloc, _) => {
            let (kind, memory) = (Kind::Zero { unmap: false }, Memory::empty());
            let zero = Request { kind, fua: false, offset: before, len: end - before, memory };
            node.handle(io, zero).await.1.map_err(|error| (before, error))
        }
    }
}

async fn write_zeroes(io: &Handle, node: &Arc<Node>, range: Range<u64>) -> Result<(), (u64, IoError)> {
    let mut at = range.start;
    while at < range.end {
        let len = PIECE.min(range.end - at);
        let memory = Memory::from(Buf::new(byte_count(len)));
        let write = Request { kind: Kind::Write, fua: false, offset: at, len, memory };
        node.handle(io, write).await.1.map_err(|error| (at, error))?;
        at += len;
    }
    Ok(())
}
