//! `tidemark bitmap list`.

use super::open::{self, Mode};
use crate::info::size::size;
use crate::inspect::{self, InspectOptions, Output, printable};
use qmp_lite::block::image::bitmaps_to_json;
use qmp_lite::context::Context;
use tidemark_backend::bitmaps::BitmapInfo;

/// Options of `tidemark bitmap list`.
#[derive(clap::Args, Debug)]
pub struct ListOptions {
    #[command(flatten)]
    image: InspectOptions,
}

/// Lists the bitmaps of an image.
///
/// # Errors
/// It cannot be opened.
pub fn run(options: &ListOptions) -> anyhow::Result<()> {
    let InspectOptions { image, format, output, force_share } = &options.image;
    let context = Context::new();
    let mode = if *force_share { Mode::Share } else { Mode::Read };
    let Some(node) = open::open(&context, "image", image, *format, mode)? else {
        return tell(Vec::new(), *output);
    };
    let bitmaps = node.points().tracking().list();
    open::close(&context, node)?;
    tell(bitmaps, *output)
}

/// Tells of bitmaps, which are the newest first.
///
/// # Errors
/// Nobody can read it.
pub fn tell(mut bitmaps: Vec<BitmapInfo>, output: Output) -> anyhow::Result<()> {
    bitmaps.reverse();
    inspect::print(&match output {
        Output::Json => bitmaps_to_json(bitmaps),
        Output::Human if bitmaps.is_empty() => "The image has no bitmaps.\n".to_owned(),
        Output::Human => table(&bitmaps),
    })
}

fn table(bitmaps: &[BitmapInfo]) -> String {
    let head = ["NAME", "GRANULARITY", "DIRTY", "FLAGS"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(bitmaps.iter().map(columns)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [name, granularity, dirty] = [0, 1, 2].map(width);
    let line = |[n, g, d, flags]: &[String; 4]| {
        format!("{n:name$}  {g:>granularity$}  {d:>dirty$}  {flags}").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn columns(bitmap: &BitmapInfo) -> [String; 4] {
    let dirty = match bitmap.inconsistent {
        true => "unknown".to_owned(),
        false => size(bitmap.count),
    };
    let flag = |set: bool, name: &'static str| set.then_some(name);
    let flags = [flag(bitmap.recording, "recording"), flag(bitmap.inconsistent, "inconsistent")];
    let flags: Vec<_> = flags.into_iter().flatten().collect();
    [printable(&bitmap.name), size(bitmap.granularity.into()), dirty, flags.join(", ")]
}
