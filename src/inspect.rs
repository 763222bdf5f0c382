//! What the commands that look at an image have in common: which image, what for, how it is told, why it is not.

use crate::image::Format;
use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use std::io::Write as _;
use std::path::PathBuf;
use tidemark_backend::error::GraphError;
use tidemark_backend::graph::{InspectError, Inspected};

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// People.
    Human,
    /// Programs.
    Json,
}

/// The image to look at.
#[derive(clap::Args, Debug)]
pub struct InspectOptions {
    /// Image file or block device.
    pub image: PathBuf,
    /// Format of the image. Without it an image that begins as qcow2 images do is one, and any other is raw.
    #[arg(short, long, value_enum)]
    pub format: Option<Format>,
    /// Who is told.
    #[arg(long, value_enum, default_value = "human")]
    pub output: Output,
    /// Look at the image even while it is being written to. What is told may contradict itself then.
    #[arg(short = 'U', long)]
    pub force_share: bool,
}

/// Prints what there is to tell.
///
/// # Errors
/// Nobody can read it.
pub fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// Why there is nothing to tell, and how to find out more.
pub fn refusal(error: &InspectError) -> anyhow::Error {
    match error {
        InspectError::Open { source: GraphError::Locked(conflict), .. } => anyhow!("{error}\n{}", conflict.hint()),
        _ => anyhow!("{error}"),
    }
}

/// Warns of what another program did to the image.
pub fn warn(image: &Inspected) {
    if image.description().is_some_and(|description| description.header.stale_bitmaps) {
        eprintln!(
            "tidemark: warning: a program lacking bitmap support modified this file, so all bitmaps are now \
             considered inconsistent\nSome clusters may be leaked, run 'tidemark check --repair leaks' on the image file to fix."
        );
    }
}

/// Text out of an image, for a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}
