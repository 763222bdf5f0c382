//! `tidemark check`: whether an image's reference counts are right, as `qemu-img check` tells it, and making them right.
//! Without `--repair` nothing changes.

use crate::image::Format;
use crate::inspect::{self, InspectOptions, Output};
use anyhow::{anyhow, bail};
use clap::ValueEnum;
use qmp_lite::block::image::ImageCheck;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;
use tidemark_backend::graph::repair::{Repair, RepairError, Repaired};
use tidemark_backend::graph::{Graph, ImageCheckError, InspectError, Inspected};

/// The image is corrupt.
const CORRUPT: u8 = 2;
/// Clusters leak, no more.
const LEAKS: u8 = 3;
/// There is nothing to check in this format.
const UNSUPPORTED: u8 = 63;

/// Options of `tidemark check`.
///
/// The exit status is 0 for an image that is sound, 2 for one that is corrupt, 3 for one that only has clusters that
/// nothing refers to, 63 for a format without anything to check, and 1 when the check could not be made. With --repair
/// it says what the image is like afterwards.
#[derive(clap::Args, Debug)]
pub struct CheckOptions {
    #[command(flatten)]
    image: InspectOptions,
    /// Say nothing of an image on standard output, for those who want the exit status.
    #[arg(short, long)]
    quiet: bool,
    /// Repair what is found; nobody may be using the image.
    #[arg(short, long, value_enum, value_name = "WHAT", conflicts_with = "force_share")]
    repair: Option<What>,
}

/// What is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Clusters that nothing refers to are freed.
    Leaks,
    /// All counts are made right, too, and what is said of them elsewhere in the image.
    All,
}

/// Checks an image, and repairs it if that is wanted.
///
/// # Errors
/// The check could not be made, or the image not be repaired.
pub fn run(options: &CheckOptions) -> anyhow::Result<ExitCode> {
    let InspectOptions { image: path, format, output, force_share } = &options.image;
    let graph = Graph::new();
    // Who repairs an image finds out then whether somebody uses it.
    let share = *force_share || options.repair.is_some();
    let image = graph.inspect(path, format.map(Format::in_headers), share);
    let image = image.map_err(|error| inspect::refusal(&error))?;
    inspect::warn(&image);
    if image.description().is_none() {
        eprintln!("tidemark: {}", ImageCheckError::Unsupported);
        return Ok(UNSUPPORTED.into());
    }
    let found = match options.repair {
        Some(what) => repaired(&image, &repair(&graph, path, what)?),
        None => {
            let report = graph.check(&image)?;
            report.errors.iter().for_each(|line| say(line));
            ImageCheck::new(&image, &report)
        }
    };
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

fn repair(graph: &Graph, path: &Path, what: What) -> anyhow::Result<Repaired> {
    let device = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_block_device());
    let what = if what == What::All { Repair::All } else { Repair::Leaks };
    graph.repair(path, device, what).map_err(|error| match error {
        RepairError::Graph(source) => {
            inspect::refusal(&InspectError::Open { path: path.display().to_string(), source })
        }
        error => anyhow!("'{}': {error}", path.display()),
    })
}

/// What is left, with a line for each thing that was found and for each that still is.
fn repaired(image: &Inspected, Repaired { before, after }: &Repaired) -> ImageCheck {
    let fixed = |before: u64, after: u64| Some(before.saturating_sub(after)).filter(|count| *count > 0);
    let leaks_fixed = fixed(before.leaks, after.leaks);
    let corruptions_fixed = fixed(before.corruptions, after.corruptions);
    for line in before.errors.iter().filter(|line| !after.errors.contains(line)) {
        let (_, of) = line.split_once(' ').unwrap_or_default();
        say(&format!("Repairing {of}"));
    }
    after.errors.iter().for_each(|line| say(line));
    ImageCheck { leaks_fixed, corruptions_fixed, ..ImageCheck::new(image, after) }
}

fn say(line: &str) {
    eprintln!("{}", inspect::printable(line));
}

/// What was found, for people.
fn human(found: &ImageCheck) -> String {
    let mut text = String::new();
    if (found.leaks_fixed, found.corruptions_fixed) != (None, None) {
        text += &format!(
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n\
             Double checking the fixed image now...\n",
            found.leaks_fixed.unwrap_or(0),
            found.corruptions_fixed.unwrap_or(0)
        );
    }
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
