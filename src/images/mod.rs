//! The image tools: what `qemu-img` does, for hosts without it. Each works on images that nobody serves.
//!
//! Images are opened as nodes, as a daemon opens them, and all that is read and written goes through these. Options,
//! texts, exit statuses, JSON and tables are those of `qemu-img`; lines of success are not.

mod cache;
mod commit;
mod compare;
mod convert;
mod copy;
mod create;
mod crew;
mod disk;
mod layout;
mod made;
mod map;
mod measure;
mod options;
mod rebase;
mod resize;
mod size;
mod snapshot;
mod snapshot_named;
mod target;

use anyhow::Result;
use std::process::ExitCode;

/// Tools for images.
#[derive(clap::Subcommand, Debug)]
pub enum ImageCommand {
    /// Make an empty image.
    Create(create::CreateOptions),
    /// Copy the disk of an image into a new one, of the same format or of another.
    Convert(Box<convert::ConvertOptions>),
    /// Give the disk of an image another size.
    Resize(resize::ResizeOptions),
    /// Put an image above another one, without changing its disk.
    Rebase(rebase::RebaseOptions),
    /// Write what an image has into one below it.
    Commit(commit::CommitOptions),
    /// Tell where the bytes of an image's disk are, run by run.
    Map(map::MapOptions),
    /// Tell whether two images have the same disk.
    Compare(compare::CompareOptions),
    /// Tell how much space an image would take.
    Measure(measure::MeasureOptions),
    /// List, take, apply and delete the internal snapshots of an image that nobody serves.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
}

/// Runs a tool.
///
/// # Errors
/// It could not be done.
pub fn run(command: &ImageCommand) -> Result<ExitCode> {
    match command {
        ImageCommand::Create(options) => create::run(options),
        ImageCommand::Convert(options) => convert::run(options),
        ImageCommand::Resize(options) => resize::run(options),
        ImageCommand::Rebase(options) => rebase::run(options),
        ImageCommand::Commit(options) => commit::run(options),
        ImageCommand::Map(options) => map::run(options),
        ImageCommand::Compare(options) => return compare::run(options),
        ImageCommand::Measure(options) => measure::run(options),
        ImageCommand::Snapshot(command) => snapshot::run(command),
    }
    .map(|()| ExitCode::SUCCESS)
}
