//! The image tools: what `qemu-img` does, for hosts without it. Each works on images that nobody serves.
//!
//! Images are opened as nodes, as a daemon opens them, and all that is read and written goes through these. Options,
//! texts, exit statuses and JSON are those of `qemu-img`; what people read is not.

mod cache;
mod convert;
mod copy;
mod create;
mod crew;
mod disk;
mod made;
mod options;
mod size;
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
}

/// Runs a tool.
///
/// # Errors
/// It could not be done.
pub fn run(command: &ImageCommand) -> Result<ExitCode> {
    match command {
        ImageCommand::Create(options) => create::run(options),
        ImageCommand::Convert(options) => convert::run(options),
    }
    .map(|()| ExitCode::SUCCESS)
}
