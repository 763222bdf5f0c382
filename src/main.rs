//! `tidemark`: one program that serves disks, controls the process that serves them, and shows that it works.
//!
//! Puts the parts together and knows the command line; knows no ring, no image format and no JSON. With a subcommand it
//! is for people ([`serve`], [`export`], [`ctl`], [`backup`], [`demo`], [`info`], [`check`], [`bitmap`], [`track`],
//! [`images`]); with options alone it is a daemon in the manner of `qemu-storage-daemon` ([`daemon`]). Whatever fails
//! before it runs is one message on standard error and exit status 1.

mod backup;
mod bitmap;
mod check;
mod cli;
mod ctl;
mod daemon;
mod demo;
mod export;
mod grown;
mod image;
mod images;
mod info;
mod inspect;
mod lifetime;
mod logging;
mod serve;
mod track;

use cli::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = match cli::parse(&arguments) {
        Some(Command::Serve(options)) => serve::run(&options),
        Some(Command::Export(options)) => export::run(&options),
        Some(Command::Ctl(options)) => ctl::run(&options),
        Some(Command::Backup(options)) => return backup::run(&options).unwrap_or_else(failed),
        Some(Command::Demo(options)) => demo::run(options),
        Some(Command::Info(options)) => info::run(&options),
        Some(Command::Check(options)) => return check::run(&options).unwrap_or_else(failed),
        Some(Command::Bitmap(command)) => return bitmap::run(&command).unwrap_or_else(failed),
        Some(Command::Track(options)) => track::run(&options),
        Some(Command::Image(command)) => return images::run(&command).unwrap_or_else(failed),
        None => return daemon::run(&arguments),
    };
    outcome.map_or_else(failed, |()| ExitCode::SUCCESS)
}

/// Says why.
fn failed(error: anyhow::Error) -> ExitCode {
    eprintln!("tidemark: {error:#}");
    ExitCode::FAILURE
}
