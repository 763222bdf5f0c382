//! `tidemark snapshot`: the internal snapshots of an image that nobody serves, as `qemu-img snapshot` has them.
//!
//! One that is taken keeps the disk as it is; one that is applied makes the disk what it was. Bitmaps do not say what
//! changes then, so an image that has any keeps its disk.

use super::disk::Wanted;
use crate::image::Format;
use crate::info::snapshots::table;
use crate::inspect::{self, InspectOptions, Output};
use crate::logging::{self, Level};
use anyhow::{Result, anyhow};
use qmp_lite::block::image::{SnapshotInfo, snapshots_to_json};
use qmp_lite::context::Context;
use std::path::PathBuf;
use tidemark_backend::graph::InspectError;
use tidemark_backend::graph::snapshots::{SnapshotChange, SnapshotChangeError};
use tidemark_backend::node::options::Backing;

/// Commands of `tidemark snapshot`.
#[derive(clap::Subcommand, Debug)]
pub enum SnapshotCommand {
    /// List the snapshots of an image.
    List(ListOptions),
    /// Keep the disk as it is now.
    Create(SnapshotOptions),
    /// Make the disk what it was at a snapshot. What has changed since is lost.
    Apply(SnapshotOptions),
    /// Forget a snapshot, and give its space back.
    Delete(SnapshotOptions),
}

/// Options of `tidemark snapshot list`.
#[derive(clap::Args, Debug)]
pub struct ListOptions {
    #[command(flatten)]
    image: InspectOptions,
}

/// A snapshot of an image.
#[derive(clap::Args, Debug)]
pub struct SnapshotOptions {
    /// Format of the image. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short, long, value_enum)]
    format: Option<Format>,
    /// Say nothing. Nothing is said anyway.
    #[arg(short, long)]
    quiet: bool,
    /// Image file or block device.
    image: PathBuf,
    /// The snapshot's name; of one that is there also its id.
    snapshot: String,
}

/// Runs a command.
///
/// # Errors
/// It could not be done; the image is what it was.
pub fn run(command: &SnapshotCommand) -> Result<()> {
    // That an image is repaired after a snapshot was applied is no news.
    logging::start(Some(Level::Error));
    match command {
        SnapshotCommand::List(options) => list(options),
        SnapshotCommand::Create(options) => change(options, SnapshotChange::Create),
        SnapshotCommand::Apply(options) => change(options, SnapshotChange::Apply),
        SnapshotCommand::Delete(options) => change(options, SnapshotChange::Delete),
    }
}

fn list(options: &ListOptions) -> Result<()> {
    let InspectOptions { image, format, output, force_share } = &options.image;
    let context = Context::new();
    let image = context.graph.inspect(image, format.map(Format::in_headers), *force_share);
    let image = image.map_err(|error| inspect::refusal(&error))?;
    inspect::warn(&image);
    let found = image.description().map(|description| description.snapshots.snapshots.as_slice());
    let snapshots: Vec<SnapshotInfo> = found.unwrap_or_default().iter().map(SnapshotInfo::from).collect();
    inspect::print(&match output {
        Output::Json => snapshots_to_json(&snapshots),
        Output::Human if snapshots.is_empty() => "The image has no snapshots.\n".to_owned(),
        Output::Human => table(&snapshots).join("\n") + "\n",
    })
}

/// Changes the snapshots of an image that nobody else has; what is below it takes no part.
fn change(options: &SnapshotOptions, change: fn(String) -> SnapshotChange) -> Result<()> {
    let context = Context::new();
    let wanted = Wanted { backing: Backing::None, ..Wanted::write(&options.image, options.format) };
    let node = wanted.node_options(&context)?;
    let changed = context.graph.change_snapshots(&node, &change(options.snapshot.clone()));
    changed.map_err(|error| match error {
        SnapshotChangeError::Graph(source) => {
            inspect::refusal(&InspectError::Open { path: options.image.display().to_string(), source })
        }
        refused => anyhow!("{refused}"),
    })
}
