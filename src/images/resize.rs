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
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::{Kind, Node, Request};
use tidemark_backend::reactor::Handle;
use tidemark_jobs::resize::resize as jobs_resize;

/// Bytes of zeroes that are written at a time.
const PIECE: u64 = 1 << 20;

/// What space a disk takes for what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Space {
    /// None.
    Off,
    /// As the file system reserves it; of raw images.
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
    size: Change,
}

/// Resizes an image.
///
/// # Errors
/// It cannot have that size; nothing has changed then, or the text says what.
pub fn run(options: &ResizeOptions) -> Result<()> {
    logging::start(Some(Level::Warn));
    let context = Context::new();
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let disk = Wanted::write(&options.image, options.format).open(&context)?;
    let resized = resize(&context, options, &disk);
    disk.close(&context)?;
    let size = resized?;
    let (image, shown) = (options.image.display(), crate::info::size::size(size));
    if options.quiet { Ok(()) } else { inspect::print(&format!("'{image}': {shown} ({size} bytes)\n")) }
}

/// Does it; returns the size.
fn resize(context: &Context, options: &ResizeOptions, disk: &Disk) -> Result<u64> {
    let before = disk.length();
    let size = options.size.of(before).ok_or_else(|| anyhow!("New image size must be positive"))?;
    let size = if disk.image().is_some() { size } else { size.next_multiple_of(512) };
    if size < before && !options.shrink {
        bail!(
            "Use the --shrink option to perform a shrink operation.\ntidemark: warning: Shrinking an image will delete all \
             data beyond the shrunken image's end. Before performing such an operation, make sure there is no important \
             data there."
        );
    }
    let space = options.preallocation;
    ensure!(size > before || space == Space::Off, "Preallocation can only be used for growing images");
    ensure!(
        space != Space::Falloc || disk.image().is_none(),
        "A qcow2 image that grows takes no space, or writes zeroes: --preallocation off or full"
    );
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
    ensure!(found == size, "Image was not resized; resizing may not be supported for this image");
    Ok(size)
}

/// Takes space for what comes after `before`.
async fn fill(
    io: &Handle,
    node: &Arc<Node>,
    before: u64,
    space: Space,
) -> Result<(), (u64, tidemark_backend::error::IoError)> {
    let (mut at, end) = (before, node.length());
    while at < end && space != Space::Off {
        let len = if space == Space::Full { PIECE } else { end }.min(end - at);
        let (kind, memory) = match space {
            Space::Full => (Kind::Write, Memory::from(Buf::new(byte_count(len)))),
            _ => (Kind::Zero { unmap: false }, Memory::empty()),
        };
        let (_, result) = node.handle(io, Request { kind, fua: false, offset: at, len, memory }).await;
        result.map_err(|error| (at, error))?;
        at += len;
    }
    Ok(())
}
