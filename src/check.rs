//! `tidemark check`: whether an image's reference counts are right, as `qemu-img check` tells it. Changes nothing.

use crate::image::Format;
use crate::inspect::{self, InspectOptions, Output};
use anyhow::bail;
use qmp_lite::block::image::ImageCheck;
use std::process::ExitCode;
use tidemark_backend::graph::{Graph, ImageCheckError};

/// The image is corrupt.
const CORRUPT: u8 = 2;
/// Clusters leak, no more.
const LEAKS: u8 = 3;
/// There is nothing to check in this format.
const UNSUPPORTED: u8 = 63;

/// Options of `tidemark check`.
///
/// The exit status is 0 for an image that is sound, 2 for one that is corrupt, 3 for one that only has clusters that
/// nothing refers to, 63 for a format without anything to check, and 1 when the check could not be made.
#[derive(clap::Args, Debug)]
pub struct CheckOptions {
    #[command(flatten)]
    image: InspectOptions,
    /// Say nothing of an image on standard output, for those who want the exit status.
    #[arg(short, long)]
    quiet: bool,
}

/// Checks an image.
///
/// # Errors
/// The check could not be made.
pub fn run(options: &CheckOptions) -> anyhow::Result<ExitCode> {
    let InspectOptions { image, format, output, force_share } = &options.image;
    let graph = Graph::new();
    let image = graph.inspect(image, format.map(Format::in_headers), *force_share);
    let image = image.map_err(|error| inspect::refusal(&error))?;
    inspect::warn(&image);
    let report = match graph.check(&image) {
        Ok(report) => report,
        Err(error @ ImageCheckError::Unsupported) => {
            eprintln!("tidemark: {error}");
            return Ok(UNSUPPORTED.into());
        }
        Err(error) => bail!("{error}"),
    };
    report.errors.iter().for_each(|line| eprintln!("{}", inspect::printable(line)));
    let found = ImageCheck::new(&image, &report);
    match output {
        _ if options.quiet => {}
        Output::Human => inspect::print(&human(&found))?,
        Output::Json => inspect::print(&found.to_json())?,
    }
    match (found.check_errors, found.corruptions, found.leaks) {
        (1.., ..) => bail!("Check failed"),
        (_, Some(_), _) => Ok(CORRUPT.into()),
        (.., Some(_)) => Ok(LEAKS.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// What was found, for people.
fn human(found: &ImageCheck) -> String {
    let mut text = String::new();
    if (found.corruptions, found.leaks, found.check_errors) == (None, None, 0) {
        text += "No errors were found on the image.\n";
    }
    if let Some(count) = found.corruptions {
        text += &format!(
            "\n{count} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n"
        );
    }
    if let Some(count) = found.leaks {
        text += &format!(
            "\n{count} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.\n"
        );
    }
    if found.check_errors > 0 {
        text += &format!("\n{} internal errors have occurred during the check.\n", found.check_errors);
    }
    if let (Some(total), Some(allocated)) = (found.total_clusters, found.allocated_clusters) {
        let percent = |part: Option<u64>, whole: u64| part.unwrap_or(0) as f64 * 100.0 / whole as f64;
        text += &format!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            percent(Some(allocated), total),
            percent(found.fragmented_clusters, allocated),
            percent(found.compressed_clusters, allocated)
        );
    }
    if let Some(end) = found.image_end_offset {
        text += &format!("Image end offset: {end}\n");
    }
    text
}
