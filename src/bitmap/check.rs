//! `tidemark bitmap check`: the rules for the images of a chain. Changes nothing.

use super::chain::{Broken, Layer, check};
use crate::image::Format;
use crate::inspect::{self, InspectOptions, Output, printable};
use qmp_lite::block::image::{BitmapChainCheck, BitmapChainLayer};
use std::path::PathBuf;
use std::process::ExitCode;
use tidemark_backend::graph::{Graph, Inspected};

/// The bitmap cannot be used for a backup.
const INVALID: u8 = 2;

/// Options of `tidemark bitmap check`.
///
/// IMAGE is the top image of the chain. The exit status is 0 for a bitmap that a backup can be made from, 2 for one that
/// none can, and 1 when the check could not be made.
#[derive(clap::Args, Debug)]
pub struct ChainOptions {
    #[command(flatten)]
    image: InspectOptions,
    /// Name of the bitmap.
    bitmap: String,
    /// Let headers of images name files below this directory too; may be given several times.
    #[arg(long, value_name = "DIRECTORY")]
    backing_dir: Vec<PathBuf>,
}

/// Checks a chain.
///
/// # Errors
/// An image cannot be opened.
pub fn run(options: &ChainOptions) -> anyhow::Result<ExitCode> {
    let graph = Graph::new();
    options.backing_dir.iter().for_each(|dir| graph.allow_backing_in(dir.clone()));
    let InspectOptions { image, format, output, force_share } = &options.image;
    let chain = graph.inspect_chain(image, format.map(Format::in_headers), *force_share);
    let chain = chain.map_err(|error| inspect::refusal(&error))?;
    chain.iter().for_each(inspect::warn);
    let layers: Vec<_> = chain.iter().map(|image| layer(image, &options.bitmap)).collect();
    let verdict = check(&layers);
    inspect::print(&match output {
        Output::Human => human(&chain, &layers, verdict),
        Output::Json => report(&chain, &layers, verdict, &options.bitmap).to_json(),
    })?;
    Ok(verdict.map_or(INVALID.into(), |()| ExitCode::SUCCESS))
}

/// What an image has of the bitmap.
fn layer(image: &Inspected, name: &str) -> Layer {
    let bitmaps = image.description().map_or(&[][..], |description| &description.bitmaps);
    match bitmaps.iter().find(|bitmap| bitmap.name == name) {
        None => Layer::Missing,
        Some(bitmap) if bitmap.in_use => Layer::Inconsistent,
        Some(bitmap) if bitmap.auto => Layer::Recording,
        Some(_) => Layer::Disabled,
    }
}

fn file_name(image: &Inspected) -> String {
    image.path().display().to_string()
}

fn human(chain: &[Inspected], layers: &[Layer], verdict: Result<(), Broken>) -> String {
    let verdict = match verdict {
        Ok(()) => "valid\n".to_owned(),
        Err(broken) => {
            let name = chain.get(broken.layer()).map(file_name).unwrap_or_default();
            let (rule, layer) = (broken.rule(), broken.layer());
            format!("invalid: rule {rule}, layer {layer} '{}': {}\n", printable(&name), broken.reason())
        }
    };
    let row = |(number, (image, layer)): (usize, (&Inspected, &Layer))| {
        format!("    {number}: {:12}  {}\n", layer.text(), printable(&file_name(image)))
    };
    verdict + &chain.iter().zip(layers).enumerate().map(row).collect::<String>()
}

fn report(chain: &[Inspected], layers: &[Layer], verdict: Result<(), Broken>, bitmap: &str) -> BitmapChainCheck {
    let layer = |(image, layer): (&Inspected, &Layer)| BitmapChainLayer {
        filename: file_name(image),
        bitmap: layer.text().to_owned(),
    };
    let broken = verdict.err();
    BitmapChainCheck {
        filename: chain.first().map(file_name).unwrap_or_default(),
        bitmap: bitmap.to_owned(),
        valid: broken.is_none(),
        rule: broken.map(Broken::rule),
        layer: broken.map(|broken| broken.layer() as u64),
        reason: broken.map(|broken| broken.reason().to_owned()),
        layers: chain.iter().zip(layers).map(layer).collect(),
    }
}
