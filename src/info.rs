//! `tidemark info`: what an image says of itself, field for field what `qemu-img info` tells.
//!
//! Reads metadata only, opens no backing file unless it is asked to, and then only those that headers may name.

mod human;
pub mod size;
pub mod snapshots;

use crate::image::Format;
use crate::inspect::{self, InspectOptions, Output};
use qmp_lite::block::image::BlockGraphInfo;
use std::path::PathBuf;
use tidemark_backend::graph::Graph;

/// Options of `tidemark info`.
#[derive(clap::Args, Debug)]
pub struct InfoOptions {
    #[command(flatten)]
    image: InspectOptions,
    /// Tell of all images below, too, as far as headers may name them: below the image's own directory.
    #[arg(short, long)]
    backing_chain: bool,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
}

/// Tells of an image.
///
/// # Errors
/// It cannot be opened.
pub fn run(options: &InfoOptions) -> anyhow::Result<()> {
    let graph = Graph::new();
    options.backing_dir.iter().for_each(|dir| graph.allow_backing_in(dir.clone()));
    let InspectOptions { image, format, output, force_share } = &options.image;
    let format = format.map(Format::in_headers);
    let inspected = match options.backing_chain {
        true => graph.inspect_chain(image, format, *force_share),
        false => graph.inspect(image, format, *force_share).map(|image| vec![image]),
    };
    let inspected = inspected.map_err(|error| inspect::refusal(&error))?;
    inspected.iter().for_each(inspect::warn);
    let told: Vec<_> = inspected.iter().map(BlockGraphInfo::new).collect();
    let text = match (output, options.backing_chain, told.as_slice()) {
        (Output::Human, ..) => told.iter().map(human::text).collect::<Vec<_>>().join("\n"),
        (Output::Json, false, [only]) => only.to_json(),
        (Output::Json, ..) => BlockGraphInfo::chain_to_json(&told),
    };
    inspect::print(&text)
}
