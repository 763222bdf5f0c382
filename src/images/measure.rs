//! `tidemark measure`: how much space an image would take, as `qemu-img measure` counts it.

use super::disk::{Disk, Wanted};
use super::layout::Layout;
use super::options::Given;
use super::{size, snapshot_named};
use crate::image::Format;
use crate::inspect::{self, Output};
use anyhow::{Result, anyhow, bail};
use qmp_lite::block::image::BlockMeasureInfo;
use qmp_lite::context::Context;
use std::path::PathBuf;
use tidemark_backend::node::qcow2::create::{CreateError, CreateOptions, Preallocation, full_length};

/// Bytes of a bitmap's directory entry without its name (qcow2 specification, "Bitmap directory").
const DIRECTORY_ENTRY: u64 = 24;

/// Options of `tidemark measure`.
#[derive(clap::Args, Debug)]
pub struct MeasureOptions {
    /// Format of the image that is measured.
    #[arg(short = 'O', long, value_enum, value_name = "FORMAT", default_value = "raw")]
    target_format: Format,
    /// Options of that format, as of `tidemark create`.
    #[arg(short, long, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Measure an empty disk of so many bytes, also with k, M, G, T, P or E.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
    /// Format of the source. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short = 'f', long, value_enum)]
    format: Option<Format>,
    /// The disk as it was at this internal snapshot of the source.
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Look at the source even while it is being written to.
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
    /// Who is told.
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// The image whose disk is to be in it.
    source: Option<PathBuf>,
}

/// Measures an image.
///
/// # Errors
/// The source cannot be read; there is no such image.
pub fn run(options: &MeasureOptions) -> Result<()> {
    let context = Context::new();
    options.backing_dir.iter().for_each(|dir| context.graph.allow_backing_in(dir.clone()));
    let given = Given::read(&options.options, options.target_format)?;
    let source = match (&options.source, options.size) {
        (Some(_), Some(_)) => bail!("--size N cannot be used together with a filename."),
        (None, None) => bail!("Either --size N or one filename must be specified."),
        (Some(path), None) => {
            let snapshot = options.snapshot.as_deref();
            let snapshot =
                snapshot.map(|text| snapshot_named::find(&context, path, options.format, text)).transpose()?;
            let (force_share, snapshot) = (options.force_share, snapshot.as_deref());
            Some(Wanted { force_share, snapshot, ..Wanted::read(path, options.format) }.open(&context)?)
        }
        (None, Some(_)) => None,
    };
    let size = source.as_ref().map_or(options.size.unwrap_or(0), Disk::length).next_multiple_of(512);
    let measured = match options.target_format {
        Format::Raw => BlockMeasureInfo { required: size, fully_allocated: size, bitmaps: None },
        Format::Qcow2 => qcow2(&context, &given, source.as_ref(), size)?,
    };
    source.map_or(Ok(()), |source| source.close(&context))?;
    inspect::print(&match options.output {
        Output::Json => measured.to_json(),
        Output::Human => human(&measured),
    })
}

fn qcow2(context: &Context, given: &Given, source: Option<&Disk>, size: u64) -> Result<BlockMeasureInfo> {
    let options = given.of_qcow2(size)?;
    let cluster = options.cluster_size;
    let has_backing = options.backing.is_some();
    let bare = CreateOptions { backing: None, backing_format: None, data_file_raw: false, ..options.clone() };
    // What options are wrong with is told before anything is computed with them.
    full_length(&bare).map_err(|error| match error {
        CreateError::TooLarge => anyhow!("The image size is too large (try using a larger cluster size)"),
        other => anyhow!(other),
    })?;
    let size = size.next_multiple_of(cluster);
    let fully_allocated = full_length(&CreateOptions { size, ..bare })?;
    let filled = matches!(given.preallocation()?, Preallocation::Falloc | Preallocation::Full);
    let data = match source {
        _ if filled => size,
        // How much of it the image below has is not known.
        Some(_) if has_backing => size,
        Some(source) => data_bytes(context, source, cluster)?,
        None => 0,
    };
    let bitmaps = source.filter(|source| options.version > 2 && source.image().is_some());
    let bitmaps = bitmaps.map(|source| bitmap_bytes(source, cluster));
    Ok(BlockMeasureInfo { required: fully_allocated - size + data, fully_allocated, bitmaps })
}

/// Bytes of the clusters that have data.
fn data_bytes(context: &Context, source: &Disk, cluster: u64) -> Result<u64> {
    let (node, path, end) = (source.node.clone(), source.shown(), source.length());
    context.jobs.ask_async(async move |registry| {
        let (mut at, mut sum, mut layout) = (0, 0, Layout::of(node));
        while at < end {
            let run = layout.run_at(registry.io(), at, end - at).await;
            let run = run.map_err(|error| anyhow!("Unable to get block status of '{path}' at {at}: {error}"))?.entry;
            let next = at + run.length;
            at = match run.zero {
                true => next,
                false => {
                    sum += next.next_multiple_of(cluster) - (at - at % cluster);
                    next.next_multiple_of(cluster)
                }
            };
        }
        Ok(sum)
    })?
}

/// Bytes that the bitmaps of an image take in one with such clusters.
fn bitmap_bytes(source: &Disk, cluster: u64) -> u64 {
    let bitmaps = source.node.points().tracking().list();
    let (mut sum, mut directory) = (0, 0);
    for bitmap in bitmaps.iter().filter(|bitmap| bitmap.persistent && !bitmap.inconsistent) {
        let bits = source.length().div_ceil(u64::from(bitmap.granularity).max(1));
        let clusters = bits.div_ceil(8).div_ceil(cluster);
        sum += clusters * cluster + (clusters * 8).next_multiple_of(cluster);
        directory += (DIRECTORY_ENTRY + bitmap.name.len() as u64).next_multiple_of(8);
    }
    sum + directory.next_multiple_of(cluster)
}

fn human(measured: &BlockMeasureInfo) -> String {
    let bitmaps = measured.bitmaps.map_or(String::new(), |bytes| format!("bitmaps size: {bytes}\n"));
    format!("required size: {}\nfully allocated size: {}\n{bitmaps}", measured.required, measured.fully_allocated)
}
