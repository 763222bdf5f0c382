//! The commands of `tidemark bitmap` that change an image: each is one transaction on the opened image.

use super::list;
use super::open::{self, Mode};
use super::{Bytes, apply, close, store};
use crate::image::Format;
use crate::inspect::Output;
use crate::logging::{self, Level};
use anyhow::bail;
use qmp_lite::context::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_backend::bitmaps::BitmapInfo;
use tidemark_backend::node::Node;
use tidemark_jobs::action::{Action, BitmapName, MergeSource};

/// The node of the image that is changed.
const IMAGE: &str = "image";
/// The node of the image that bitmaps are merged from.
const SOURCE: &str = "source";

/// A bitmap of an image.
#[derive(clap::Args, Debug)]
pub struct EditOptions {
    /// Image file or block device.
    image: PathBuf,
    /// Name of the bitmap.
    bitmap: String,
    /// Format of the image. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short, long, value_enum)]
    format: Option<Format>,
    /// Who is told of the bitmaps that there are then; people are told nothing.
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
}

/// Options of `tidemark bitmap add`.
#[derive(clap::Args, Debug)]
pub struct AddOptions {
    #[command(flatten)]
    bitmap: EditOptions,
    /// Bytes that a bit stands for, also with k, M or G: a power of 2, at least 512. What suits the image if absent.
    #[arg(short, long, value_name = "SIZE")]
    granularity: Option<Bytes>,
    /// Do not let it record yet.
    #[arg(long)]
    disabled: bool,
}

/// Options of `tidemark bitmap merge`.
#[derive(clap::Args, Debug)]
pub struct MergeOptions {
    #[command(flatten)]
    bitmap: EditOptions,
    /// Names of the bitmaps that are merged into it, of the same image or of another one.
    #[arg(required = true)]
    sources: Vec<String>,
    /// The image that has the sources.
    #[arg(short = 'b', long, value_name = "IMAGE")]
    source_file: Option<PathBuf>,
    /// Format of that image.
    #[arg(short = 'F', long, value_enum, value_name = "FORMAT", requires = "source_file")]
    source_format: Option<Format>,
}

impl EditOptions {
    fn name(&self) -> BitmapName {
        BitmapName { node: IMAGE.to_owned(), name: self.bitmap.clone() }
    }
}

/// Adds a bitmap.
///
/// # Errors
/// With QEMU's texts; nothing has changed then.
pub fn add(options: &AddOptions) -> anyhow::Result<()> {
    let bitmap = options.bitmap.name();
    let action = Action::BitmapAdd {
        node: bitmap.node,
        name: bitmap.name,
        // As qemu-img has it, none is said by none.
        granularity: options.granularity.map(|bytes| bytes.0).filter(|bytes| *bytes != 0),
        persistent: true,
        disabled: options.disabled,
    };
    change(&options.bitmap, "add", action, None)
}

/// Removes a bitmap.
///
/// # Errors
/// As [`add`].
pub fn remove(options: &EditOptions) -> anyhow::Result<()> {
    change(options, "remove", Action::BitmapRemove(options.name()), None)
}

/// Clears a bitmap.
///
/// # Errors
/// As [`add`].
pub fn clear(options: &EditOptions) -> anyhow::Result<()> {
    change(options, "clear", Action::BitmapClear(options.name()), None)
}

/// Lets a bitmap record.
///
/// # Errors
/// As [`add`].
pub fn enable(options: &EditOptions) -> anyhow::Result<()> {
    change(options, "enable", Action::BitmapEnable(options.name()), None)
}

/// Lets a bitmap record no longer.
///
/// # Errors
/// As [`add`].
pub fn disable(options: &EditOptions) -> anyhow::Result<()> {
    change(options, "disable", Action::BitmapDisable(options.name()), None)
}

/// Merges bitmaps into one.
///
/// # Errors
/// As [`add`].
pub fn merge(options: &MergeOptions) -> anyhow::Result<()> {
    let node = options.source_file.as_ref().map(|_| SOURCE.to_owned());
    let source = |name: &String| MergeSource { node: node.clone(), name: name.clone() };
    let sources = options.sources.iter().map(source).collect();
    let action = Action::BitmapMerge { target: options.bitmap.name(), sources };
    let file = options.source_file.as_deref().map(|path| (path, options.source_format));
    change(&options.bitmap, "merge", action, file)
}

/// Does it and stores the result; what the image keeps is told where it is asked for.
fn change(
    options: &EditOptions,
    operation: &str,
    action: Action,
    source: Option<(&Path, Option<Format>)>,
) -> anyhow::Result<()> {
    logging::start(Some(Level::Warn));
    let context = Context::new();
    let EditOptions { image, bitmap, format, output } = options;
    let failed = |why: &dyn std::fmt::Display| format!("Operation {operation} on bitmap {bitmap} failed: {why}");
    let Some(node) = open::open(&context, IMAGE, image, *format, Mode::Change)? else {
        bail!(failed(&of_raw(&action, image, bitmap)));
    };
    let changed = || -> anyhow::Result<Vec<BitmapInfo>> {
        if let Some(none) = source.map(|from| open_source(&context, from, &action)).transpose()?.flatten() {
            bail!(failed(&none));
        }
        let removes = matches!(action, Action::BitmapRemove(_));
        apply(&context, image, action).map_err(|error| anyhow::anyhow!(failed(&error)))?;
        // What was removed is gone from the file, and nothing else is to be written.
        if !removes {
            store(&context, &node)?;
        }
        Ok(node.points().tracking().list())
    };
    let changed = changed();
    finish(&context, node)?;
    match output {
        Output::Human => changed.map(drop),
        Output::Json => list::tell(changed?, *output),
    }
}

/// Opens the image that bitmaps are merged from. What is wrong if it cannot have any.
fn open_source(
    context: &Context,
    (path, format): (&Path, Option<Format>),
    action: &Action,
) -> anyhow::Result<Option<String>> {
    let found = open::open(context, SOURCE, path, format, Mode::Read)?;
    Ok(match (found, action) {
        (None, Action::BitmapMerge { sources, .. }) => sources.first().map(|source| not_found(&source.name)),
        _ => None,
    })
}

fn finish(context: &Context, node: Arc<Node>) -> anyhow::Result<()> {
    if let Some(source) = context.graph.find(SOURCE) {
        close(context, source)?;
    }
    close(context, node)
}

/// Why it cannot be done to a raw image.
fn of_raw(action: &Action, image: &Path, bitmap: &str) -> String {
    let image = image.display();
    match action {
        Action::BitmapAdd { .. } => format!(
            "Can't store persistent bitmaps to {image}: Operation not supported\nA raw disk gets them by `tidemark \
             track {image}`, in an image beside it."
        ),
        _ => not_found(bitmap),
    }
}

fn not_found(bitmap: &str) -> String {
    format!("Dirty bitmap '{bitmap}' not found")
}
