//! The command line: subcommands for people by clap, options of a daemon in the manner of getopt_long.
//!
//! Decides which of the two it is by the first argument; acts on neither.

pub mod scan;

use crate::serve::ServeOptions;
use clap::{Parser, Subcommand};
use std::ffi::OsString;

/// What the program was asked to be.
pub enum Invocation {
    /// `tidemark serve`.
    Serve(ServeOptions),
    /// Options without a subcommand.
    Daemon,
}

#[derive(Parser)]
#[command(name = "tidemark", version, about)]
struct People {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve disks to virtual machines.
    Serve(ServeOptions),
}

/// Reads the command line as far as it is for people. Errors and help end the process, as clap does it.
pub fn parse(arguments: &[OsString]) -> Invocation {
    match arguments.first() {
        Some(first) if is_subcommand(first) => {}
        _ => return Invocation::Daemon,
    }
    let program = OsString::from("tidemark");
    match People::try_parse_from(std::iter::once(&program).chain(arguments)) {
        Ok(People { command: Command::Serve(options) }) => Invocation::Serve(options),
        Err(error) => {
            // Nobody is left to be told when standard error is closed.
            let _ = error.print();
            std::process::exit(error.exit_code().min(1))
        }
    }
}

fn is_subcommand(argument: &OsString) -> bool {
    use clap::CommandFactory;
    let known = People::command();
    argument == "help" || argument.to_str().is_some_and(|name| known.find_subcommand(name).is_some())
}
