//! `tidemark resize`: another size of an image's disk, as `qemu-img resize` has it.

use super::copy::failed;
use super::disk::{Disk, Wanted};
use super::size::Change;
use crate::image::Format;
use crate::inspect;
use crate::logging::{self, Level};
use anyhow::{Result, anyhow, bail, ensure};
use qmp_lite::context::Context;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_backend::error::IoError;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::qcow2::create::Preallocation;
use tidemark_backend::node::{Kind, Node, Request};
use tidemark_backend::reactor::Handle;
use tidemark_jobs::resize::resize as jobs_resize;

/// Bytes of zeroes that are written at a time.
const PIECE: u64 = 1 << 20;

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
    #[arg(long, value_name = "MODE", default_value = "off", value_parser = super::options::preallocation)]
    preallocation: Preallocation,
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
    ensure!(size > before || space == Preallocation::Off, "Preallocation can only be used for growing images");
    let is_image = disk.image().is_some();
    ensure!(space != Preallocation::Metadata || is_image, "Unsupported preallocation mode 'metadata'");
    let change = |size, space| jobs_resize(&context.jobs, &context.graph, &disk.node, (size, space));
    change(size, space).map_err(|error| match disk.length() == before && space != Preallocation::Off {
        true => anyhow!("{error}").context("the disk is as long as it was"),
        false => anyhow!("{error}"),
    })?;
    if !is_image && let Err(error) = fill(context, disk, before, space) {
        return Err(match change(before, Preallocation::Off) {
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

/// Takes space for what comes after `before` on a raw disk.
fn fill(context: &Context, disk: &Disk, before: u64, space: Preallocation) -> Result<()> {
    let (node, end) = (disk.node.clone(), disk.length());
    let filled = context.jobs.ask_async(async move |registry| match space {
        Preallocation::Off | Preallocation::Metadata => Ok(()),
        Preallocation::Falloc => {
            let (kind, memory) = (Kind::Zero { unmap: false }, Memory::empty());
            let zero = Request { kind, fua: false, offset: before, len: end - before, memory };
            node.handle(registry.io(), zero).await.1.map_err(|error| (before, error))
        }
        Preallocation::Full => write_zeroes(registry.io(), &node, before..end).await,
    })?;
    filled.map_err(|(at, error)| failed("write", &disk.shown(), at, error))
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
