//! `tidemark ctl`: commands to a daemon from a shell or a prompt. Works with any QMP server on a UNIX socket.
//!
//! Knows words and terminals; what a command is and how its arguments are typed is the client's knowledge. Tasks that
//! take several commands have a subcommand of their own ([`backup`]).

pub mod backup;
mod complete;
pub mod daemon;
mod prompt;
mod words;

use anyhow::Context as _;
use qmp_lite::client::{Arguments, Client, ClientError, Introspection};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Options of `tidemark ctl`.
#[derive(clap::Args, Debug)]
#[command(
    disable_help_subcommand = true,
    subcommand_value_name = "COMMAND",
    subcommand_help_heading = "Tasks",
    override_usage = "tidemark ctl <SOCKET>\n       tidemark ctl <SOCKET> <QMP COMMAND> [ARGUMENT=VALUE]...\n       \
                      tidemark ctl <SOCKET> backup <DISK> --to <FILE> [--incremental <BITMAP>]",
    after_help = "A QMP command is one such as query-block-exports; without a command, ctl is a prompt. The daemon says \
                  what each argument is, so numbers (also with K, M, G, T), on/off and text need no quotes: \
                  `node-name=disk0 size=10G`. Members of members have dots (`addr.path=/run/s`), elements of lists \
                  numbers (`options.0.driver=raw`). `NAME:=JSON` gives a value as JSON, and a single word `{...}` all \
                  arguments."
)]
pub struct CtlOptions {
    /// The daemon's control socket.
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub task: Option<Task>,
}

/// What `tidemark ctl` is asked to do.
#[derive(clap::Subcommand, Debug)]
pub enum Task {
    /// Copy a disk of the daemon to a file while its guest goes on.
    Backup(backup::BackupOptions),
    /// A QMP command and its arguments.
    #[command(external_subcommand)]
    Command(Vec<String>),
}

/// Does a task, or shows a prompt. A backup that a signal has cancelled ends the process as a shell expects it.
///
/// # Errors
/// There is no daemon, or the command failed: then the error's class and text.
pub fn run(options: &CtlOptions) -> anyhow::Result<()> {
    match &options.task {
        None => prompt::run(&options.socket),
        Some(Task::Backup(backup)) => match backup::run(&options.socket, backup)? {
            backup::End::Complete => Ok(()),
            backup::End::Cancelled { signal } => std::process::exit(128 + signal),
        },
        Some(Task::Command(words)) => {
            let (command, arguments) = words.split_first().context("no command is given")?;
            single(&options.socket, command, arguments)
        }
    }
}

/// One command, its result on standard output.
fn single(socket: &Path, command: &str, arguments: &[String]) -> anyhow::Result<()> {
    let mut client = Client::connect(socket, |_| {})?;
    let server = match arguments.is_empty() {
        true => Introspection::default(),
        false => client.introspect()?,
    };
    let text = execute(&mut client, command, arguments, &server)?;
    writeln!(std::io::stdout(), "{text}").context("cannot write the result")
}

/// The result of a command as text: easy to read on a terminal, one line elsewhere.
fn execute(
    client: &mut Client,
    command: &str,
    arguments: &[String],
    server: &Introspection,
) -> Result<String, ClientError> {
    let arguments = Arguments::parse(arguments, command, server)?;
    let reply = client.execute(command, &arguments)?;
    Ok(reply.text(std::io::stdout().is_terminal()))
}
