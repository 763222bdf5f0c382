//! `tidemark create`: an empty image, as `qemu-img create` makes it.

use super::disk::{Wanted, format_named};
use super::made::Made;
use super::options::Given;
use super::size;
use super::target::NewImage;
use crate::image::Format;
use crate::info::size::size as shown_size;
use crate::inspect;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use qmp_lite::context::Context;
use std::path::{Path, PathBuf};
use tidemark_backend::graph::path_named;

/// Options of `tidemark create`.
///
/// A file that is there already is emptied and made anew, unless somebody uses it.
#[derive(clap::Args, Debug)]
pub struct CreateOptions {
    /// Format of the image.
    #[arg(short, long, value_enum, default_value = "raw")]
    format: Format,
    /// Options of the format, name=value with commas between them: compat, cluster_size, preallocation, refcount_bits,
    /// lazy_refcounts, compression_type, extended_l2, data_file, data_file_raw, backing_file, backing_fmt, size.
    #[arg(short, long, value_name = "OPTIONS")]
    options: Vec<String>,
    /// The image below: a path, from the directory of the new image on if it is relative.
    #[arg(short, long, value_name = "IMAGE")]
    backing: Option<String>,
    /// Format of the image below.
    #[arg(short = 'F', long, value_name = "FORMAT")]
    backing_format: Option<String>,
    /// Do not look at the image below: it need not be there.
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Say nothing.
    #[arg(short, long)]
    quiet: bool,
    /// The image to make: a file, or a block device that is large enough.
    image: PathBuf,
    /// Bytes of the disk, also with k, M, G, T, P or E; as many as the image below has if absent.
    #[arg(value_name = "SIZE")]
    size: Option<String>,
}

/// Makes an image.
///
/// # Errors
/// It cannot be made; there is none then.
pub fn run(options: &CreateOptions) -> Result<()> {
    let context = Context::new();
    let image = options.image.display();
    let size = options.size.as_deref();
    let size = size.map(|text| size::parse(text).map_err(|_| anyhow!("Invalid image size specified: '{text}'.")));
    let mut made = Made::default();
    let done = create(&context, options, size.transpose()?, &mut made).with_context(|| image.to_string());
    let (size, given) = match done {
        Ok(done) => done,
        Err(error) => return Err(made.undo(error)),
    };
    made.keep();
    if options.quiet {
        return Ok(());
    }
    let format = options.format.name();
    let above =
        given.get("backing_file").map_or(String::new(), |name| format!(", above '{}'", inspect::printable(name)));
    inspect::print(&format!("'{image}': {format}, {} ({size} bytes){above}\n", shown_size(size)))
}

/// The size of the image's disk, and what was said of it.
fn create(context: &Context, options: &CreateOptions, size: Option<u64>, made: &mut Made) -> Result<(u64, Given)> {
    let mut given = Given::read(&options.options, options.format)?;
    add_backing(&mut given, options.backing.as_deref(), options.backing_format.as_deref(), options.format)?;
    let size = match (size, given.size()?) {
        (Some(_), Some(_)) => bail!("The image size must be specified only once"),
        (one, other) => one.or(other),
    };
    let below = if options.backing_unsafe { None } else { size_below(context, &options.image, &given, true)? };
    let size = size.or(below).context("Image creation needs a size parameter")?.next_multiple_of(512);
    let new = NewImage { path: &options.image, format: options.format, given: &given, size, no_flush: false };
    new.make(&context.graph, made)?;
    Ok((size, given))
}

/// Says which image is below.
///
/// # Errors
/// The format has none below, or it is not said how.
pub fn add_backing(given: &mut Given, name: Option<&str>, format: Option<&str>, of: Format) -> Result<()> {
    let text = "Backing file not supported for file format 'raw'";
    ensure!(of == Format::Qcow2 || (name.is_none() && format.is_none()), text);
    name.into_iter().for_each(|name| given.set("backing_file", name));
    format.into_iter().for_each(|format| given.set("backing_fmt", format));
    let has = |name: &str| given.get(name).is_some();
    ensure!(!has("backing_fmt") || has("backing_file"), "Backing format cannot be used without backing file");
    if let Some(format) = given.get("backing_fmt") {
        format_named(format)?;
    }
    ensure!(
        has("backing_fmt") || !has("backing_file"),
        "Backing file specified without backing format: say it with -F raw or -F qcow2"
    );
    Ok(())
}

/// Bytes of the image below, if there is to be one.
///
/// # Errors
/// It cannot be opened.
pub fn backing_size(context: &Context, image: &Path, given: &Given) -> Result<Option<u64>> {
    size_below(context, image, given, false)
}

/// The same; with `force_share` also of one that somebody writes to, as if a snapshot of it is prepared.
fn size_below(context: &Context, image: &Path, given: &Given, force_share: bool) -> Result<Option<u64>> {
    let (Some(name), Some(format)) = (given.get("backing_file"), given.get("backing_fmt")) else { return Ok(None) };
    let path = path_named(image, name).map_err(|error| anyhow!("{error}"))?;
    ensure!(path != image, "Error: Trying to create an image with the same filename as the backing file");
    let opened = Wanted { force_share, ..Wanted::read(&path, Some(format_named(format)?)) }.open(context);
    let disk = opened.map_err(|error| anyhow!("{}\nCould not open backing image.", reason(&path, &error)))?;
    let size = disk.length();
    disk.close(context)?;
    Ok(Some(size))
}

/// Why a file cannot be opened, without its name before that.
pub fn reason(path: &Path, error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.strip_prefix(&format!("Could not open '{}': ", path.display())).map_or(text.clone(), str::to_owned)
}
