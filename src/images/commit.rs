//! `tidemark commit`: what an image has goes into one below it, as `qemu-img commit` has it.
//!
//! The image shows the same all the while: what the lower one gets is hidden by it until it is stable there.

use super::cache::CacheMode;
use super::copy::Copying;
use super::crew::{Crew, Sweep};
use super::disk::{Disk, Wanted, plain};
use crate::ctl::backup::interrupt::Interrupt;
use crate::image::Format;
use crate::inspect;
use crate::logging::{self, Level};
use anyhow::{Context as _, Result, anyhow, bail};
use qmp_lite::context::Context;
use std::path::{Path, PathBuf};
use tidemark_backend::node::options::{Backing, ChildRef, DriverOptions, Qcow2Options};
use tidemark_backend::node::{Driver, NodeOptions};
use tidemark_jobs::resize::resize;

/// Bytes of a piece.
const PIECE: u64 = 1 << 20;
/// Pieces under way.
const WINDOW: usize = 16;

/// Options of `tidemark commit`.
#[derive(clap::Args, Debug)]
pub struct CommitOptions {
    /// Format of the image. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short, long, value_enum)]
    format: Option<Format>,
    /// How images are read and written.
    #[arg(short = 't', long, value_enum, value_name = "CACHE", default_value = "writeback")]
    cache: CacheMode,
    /// The image below that gets what it and those between have; the one right below if absent. The image is not emptied
    /// then.
    #[arg(short, long, value_name = "IMAGE")]
    base: Option<PathBuf>,
    /// Do not empty the image: it is to be removed anyway.
    #[arg(short, long)]
    drop: bool,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
    /// Show how far it is. On a terminal that is always shown.
    #[arg(short, long)]
    progress: bool,
    /// Show nothing.
    #[arg(short, long)]
    quiet: bool,
    /// The image.
    image: PathBuf,
}

/// Commits an image.
///
/// # Errors
/// There is nothing below it, or it cannot be written; the image shows what it did.
pub fn run(options: &CommitOptions) -> Result<()> {
    logging::start(Some(Level::Warn));
    let interrupt = Interrupt::watch()?;
    let context = Context::new();
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let chain = chain(&context, options)?;
    let levels = base(options, &chain)?;
    let empties = !options.drop && options.base.is_none();
    let (base_path, between) = match chain.get(1..=levels) {
        Some([between @ .., base]) => (base, between),
        _ => bail!("Image does not have a backing file"),
    };
    let wanted = |path, format| Wanted { cache: options.cache, ..Wanted::write(path, Some(format)) };
    let base = wanted(&base_path.path, base_path.format).open(&context)?;
    let below = stack(base.node.name(), between);
    let top = chain.first().map_or(Format::Qcow2, |top| top.format);
    let top =
        Wanted { writes: empties, backing: Backing::Node(below), ..wanted(&options.image, top) }.open(&context)?;
    let done = commit(&context, options, &interrupt, (&top, &base), u32::try_from(levels)?);
    let done = done.and_then(|()| if empties { empty(&context, &top) } else { Ok(()) });
    top.close(&context)?;
    base.close(&context)?;
    done.with_context(|| format!("'{}' is not committed, and shows what it did", options.image.display()))?;
    if options.quiet { Ok(()) } else { inspect::print("Image committed.\n") }
}

/// An image of a chain.
struct Member {
    path: PathBuf,
    format: Format,
    /// Its name in the header above.
    name: Option<String>,
}

/// The image and those below it.
fn chain(context: &Context, options: &CommitOptions) -> Result<Vec<Member>> {
    let format = options.format.map(Format::in_headers);
    let images = context.graph.inspect_chain(&options.image, format, true);
    let images = images.map_err(|error| inspect::refusal(&error))?;
    let mut name = None;
    let mut chain = Vec::new();
    for image in &images {
        let header = image.description().map(|description| &description.header);
        let format = if header.is_some() { Format::Qcow2 } else { Format::Raw };
        chain.push(Member { path: image.path().to_owned(), format, name });
        name = header.and_then(|header| header.backing.as_ref()).map(|backing| backing.file.clone());
    }
    Ok(chain)
}

/// How many images the base is below the top.
fn base(options: &CommitOptions, chain: &[Member]) -> Result<usize> {
    let Some(base) = &options.base else { return Ok(1) };
    let same = |path: &Path| matches!((path.canonicalize(), base.canonicalize()), (Ok(one), Ok(other)) if one == other);
    let named = |member: &Member| member.name.as_deref() == base.to_str() || same(&member.path);
    chain.iter().skip(1).position(named).map(|index| index + 1).ok_or_else(|| {
        anyhow!("Did not find '{}' in the backing chain of '{}'", base.display(), options.image.display())
    })
}

/// The images between, as nodes over the one with this name.
fn stack(base: &str, between: &[Member]) -> ChildRef {
    between.iter().rev().fold(ChildRef::Name(base.to_owned()), |below, member| {
        let qcow2 = Qcow2Options { backing: Backing::Node(below), ..Qcow2Options::new(plain(&member.path, false)) };
        let node = NodeOptions::new(DriverOptions::Qcow2(Box::new(qcow2)));
        ChildRef::Inline(Box::new(NodeOptions { read_only: true.into(), ..node }))
    })
}

fn commit(
    context: &Context,
    options: &CommitOptions,
    interrupt: &Interrupt,
    (top, base): (&Disk, &Disk),
    levels: u32,
) -> Result<()> {
    let size = top.length();
    if base.length() < size {
        let grown = resize(&context.jobs, &context.graph, &base.node, size);
        grown.map_err(|error| anyhow!("cannot make '{}' as long as the image: {error}", base.shown()))?;
    }
    let copying = Copying {
        source: top.node.clone(),
        source_path: top.shown(),
        levels,
        below: u64::MAX,
        target: base.node.clone(),
        target_path: base.shown(),
        is_zero: false,
        fills: false,
        grain: 0,
        align: 1,
        stable: options.cache.stable(),
        piece: PIECE,
        window: WINDOW,
        shift: 0,
        salvage: false,
        rate: None,
    };
    let what = (!options.quiet).then(|| format!("'{}'", options.image.display()));
    Crew { threads: 1, what }.run(context, interrupt, &Sweep::new(size), &copying.task())?;
    base.trim(context)?;
    base.flush(context)
}

/// Takes away what the image has: the base has it stably.
fn empty(context: &Context, top: &Disk) -> Result<()> {
    let (node, shown) = (top.node.clone(), top.shown());
    let emptied = context.jobs.ask_async(async move |registry| match node.driver() {
        Driver::Qcow2(image) => image.empty(registry.io(), node.points()).await,
        _ => Ok(()),
    })?;
    emptied.map_err(|error| anyhow!("Could not empty {shown}: {error}"))
}
