//! `tidemark bitmap`: the persistent bitmaps of images that nobody serves, listed and changed as `qemu-img bitmap`
//! changes them, and the rules by which a backup can be made from those of a chain.
//!
//! Flags have the names that QMP has for them: `recording` is `auto` in a file, `inconsistent` is `in-use`.

mod chain;
mod check;
mod edit;
mod granularity;
mod list;
mod open;
mod recover;

pub use granularity::Bytes;
pub use open::{apply, close, store};

use std::process::ExitCode;

/// Commands of `tidemark bitmap`.
#[derive(clap::Subcommand, Debug)]
pub enum BitmapCommand {
    /// List the bitmaps of an image.
    List(list::ListOptions),
    /// Add a bitmap, which is recording as soon as the image is served.
    Add(edit::AddOptions),
    /// Remove a bitmap, also an inconsistent one.
    Remove(edit::EditOptions),
    /// Clear a bitmap: it marks nothing any more.
    Clear(edit::EditOptions),
    /// Let a bitmap record again.
    Enable(edit::EditOptions),
    /// Let a bitmap record no longer.
    Disable(edit::EditOptions),
    /// Merge bitmaps into a bitmap: it marks what they mark, too.
    Merge(edit::MergeOptions),
    /// Recover the bitmaps of an image whose daemon has crashed, so that every program may use the image again.
    Recover(recover::RecoverOptions),
    /// Check whether a bitmap and those of its name in the images below can be used for a backup.
    Check(check::ChainOptions),
}

/// Runs a command.
///
/// # Errors
/// It could not be done; the bitmaps of the image are what they were.
pub fn run(command: &BitmapCommand) -> anyhow::Result<ExitCode> {
    let done = match command {
        BitmapCommand::List(options) => list::run(options),
        BitmapCommand::Add(options) => edit::add(options),
        BitmapCommand::Remove(options) => edit::remove(options),
        BitmapCommand::Clear(options) => edit::clear(options),
        BitmapCommand::Enable(options) => edit::enable(options),
        BitmapCommand::Disable(options) => edit::disable(options),
        BitmapCommand::Merge(options) => edit::merge(options),
        BitmapCommand::Recover(options) => recover::run(options),
        BitmapCommand::Check(options) => return check::run(options),
    };
    done.map(|()| ExitCode::SUCCESS)
}
