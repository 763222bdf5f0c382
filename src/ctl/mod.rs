//! `tidemark ctl`: commands to a daemon from a shell or a prompt. Works with any QMP server on a UNIX socket.
//!
//! Knows words and terminals; what a command is and how its arguments are typed is the client's knowledge.

mod complete;
mod prompt;
mod words;

use anyhow::Context as _;
use qmp_lite::client::{Arguments, Client, ClientError, Introspection};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// Options of `tidemark ctl`.
#[derive(clap::Args, Debug)]
pub struct CtlOptions {
    /// The daemon's control socket.
    pub socket: PathBuf,
    /// The QMP command, such as query-block-exports; without one, a prompt.
    pub command: Option<String>,
    /// Arguments of the command.
    ///
    /// The daemon says what each argument is, so numbers (also with K, M, G, T), on/off and text need no quotes:
    /// `node-name=disk0 size=10G`. Members of members have dots (`addr.path=/run/s`), elements of lists numbers
    /// (`options.0.driver=raw`). `NAME:=JSON` gives a value as JSON, and a single word `{...}` all arguments.
    #[arg(value_name = "ARGUMENT=VALUE")]
    pub arguments: Vec<String>,
}

/// Runs one command, or a prompt.
///
/// # Errors
/// There is no daemon, or the command failed: then the error's class and text.
pub fn run(options: &CtlOptions) -> anyhow::Result<()> {
    match &options.command {
        None => prompt::run(&options.socket),
        Some(command) => {
            let mut client = Client::connect(&options.socket, |_| {})?;
            let server = match options.arguments.is_empty() {
                true => Introspection::default(),
                false => client.introspect()?,
            };
            let text = execute(&mut client, command, &options.arguments, &server)?;
            writeln!(std::io::stdout(), "{text}").context("cannot write the result")
        }
    }
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
