//! The command line: subcommands for people by clap, options of a daemon in the manner of getopt_long.
//!
//! Decides which of the two it is by the first argument; acts on neither.

pub mod scan;

use crate::backup::BackupOptions;
use crate::bitmap::BitmapCommand;
use crate::check::CheckOptions;
use crate::ctl::CtlOptions;
use crate::demo::DemoOptions;
use crate::export::ExportOptions;
use crate::images::ImageCommand;
use crate::info::InfoOptions;
use crate::serve::ServeOptions;
use crate::track::TrackOptions;
use clap::{CommandFactory, Parser};
use std::ffi::OsString;

/// Serves virtual machine disks over vhost-user with io_uring.
///
/// Without a subcommand tidemark is a daemon with the options of qemu-storage-daemon; `tidemark --help` lists them.
#[derive(Parser)]
#[command(name = "tidemark", version)]
pub enum Command {
    /// Serve disks to virtual machines.
    Serve(Box<ServeOptions>),
    /// Export one disk image over NBD, as it is or as it was at an internal snapshot, until its clients have left.
    Export(Box<ExportOptions>),
    /// Control a daemon: one QMP command, or a prompt.
    Ctl(CtlOptions),
    /// Back up a daemon's disks to a directory, full and incremental; list, verify, prune and restore what is there.
    Backup(Box<BackupOptions>),
    /// Show on temporary disks that it works: load, a crash in the middle, backups all the while, every byte verified.
    Demo(DemoOptions),
    /// Tell what an image is: its sizes, its format, its snapshots and bitmaps, the images below it.
    Info(InfoOptions),
    /// Check whether a qcow2 image is sound, without changing it.
    Check(CheckOptions),
    /// List and change the bitmaps of an image that nobody serves, and check those of a chain of images.
    #[command(subcommand)]
    Bitmap(BitmapCommand),
    /// Give a raw disk change tracking that outlives the daemon: a qcow2 image beside it that holds its bitmaps.
    Track(TrackOptions),
    #[command(flatten)]
    Image(ImageCommand),
}

/// The subcommand, if there is one. Its errors and help end the process, as clap does it, with status 1 for errors.
pub fn parse(arguments: &[OsString]) -> Option<Command> {
    let first = arguments.first()?;
    let is_known = |name: &str| name == "help" || Command::command().find_subcommand(name).is_some();
    if !first.to_str().is_some_and(is_known) {
        return None;
    }
    let program = OsString::from("tidemark");
    match Command::try_parse_from(std::iter::once(&program).chain(arguments)) {
        Ok(command) => Some(command),
        Err(error) => {
            // Nobody is left to be told when standard error is closed.
            let _ = error.print();
            std::process::exit(error.exit_code().min(1))
        }
    }
}
