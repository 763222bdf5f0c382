//! The prompt: a line, a command, its result; events as they come, also while a line is being typed.

use super::complete::{Completion, OWN};
use super::{execute, words};
use anyhow::Context as _;
use qmp_lite::client::{Client, ClientError, Introspection};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor, ExternalPrinter};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

type Terminal = Editor<Completion, FileHistory>;

/// Where events are shown: above the line being typed, or among the results when nobody is typing.
type Show = Box<dyn FnMut(String) + Send>;

/// Talks until the end of input, `exit`, or the end of the server.
///
/// # Errors
/// There is no server, or it went away.
pub fn run(socket: &Path) -> anyhow::Result<()> {
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(true).build();
    let mut terminal = Terminal::with_config(config).context("cannot use the terminal")?;
    let show = std::sync::Mutex::new(printer(&mut terminal));
    let mut client = Client::connect(socket, move |event| {
        let mut show = show.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        show(format!("{event}\n"));
    })?;
    let server = Rc::new(client.introspect()?);
    terminal.set_helper(Some(Completion::new(server.clone())));
    let history = history_file();
    if let Some(file) = &history {
        // Nothing to load the first time.
        let _ = terminal.load_history(file);
    }
    let outcome = talk(&mut terminal, &mut client, &server);
    if let Some(file) = &history
        && let Err(error) = save(&mut terminal, file)
    {
        eprintln!("tidemark: cannot keep the history in '{}': {error}", file.display());
    }
    outcome
}

fn talk(terminal: &mut Terminal, client: &mut Client, server: &Introspection) -> anyhow::Result<()> {
    loop {
        let line = match terminal.readline("tidemark> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("cannot read a line"),
        };
        let words = match words::split(&line) {
            Ok(words) => words,
            Err(error) => {
                eprintln!("{error}");
                continue;
            }
        };
        match words.split_first() {
            None => {}
            Some((word, _)) if word == "exit" => return Ok(()),
            Some((word, about)) if word == "help" => help(server, about)?,
            Some((command, arguments)) => match execute(client, command, arguments, server) {
                Ok(text) => {
                    writeln!(std::io::stdout(), "{text}")?;
                    // There is nobody left to talk to.
                    if command == "quit" {
                        return Ok(());
                    }
                }
                Err(error @ (ClientError::Refused { .. } | ClientError::Argument(_))) => eprintln!("{error}"),
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// `help` lists the commands, `help COMMAND` its arguments.
fn help(server: &Introspection, about: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match about.first() {
        None => {
            let commands = server.commands().chain(OWN);
            commands.map(str::to_owned).try_for_each(|name| writeln!(out, "{name}"))
        }
        Some(command) => server.arguments(command).into_iter().try_for_each(|name| {
            let values = server.values(command, &name).join("|");
            writeln!(out, "{name}={values}")
        }),
    }
}

fn printer(terminal: &mut Terminal) -> Show {
    match terminal.create_external_printer() {
        Ok(mut printer) => Box::new(move |text| {
            // The terminal is gone, and the prompt with it.
            let _ = printer.print(text);
        }),
        // Not a terminal: nobody is typing, and no line can be spoilt.
        Err(_) => Box::new(|text| {
            let _ = std::io::stdout().write_all(text.as_bytes());
        }),
    }
}

/// `tidemark/ctl_history` in the user's directory for state (XDG Base Directory Specification).
fn history_file() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).and_then(absolute);
    let state = given.or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
    Some(state.join("tidemark/ctl_history"))
}

fn save(terminal: &mut Terminal, file: &Path) -> rustyline::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    terminal.append_history(file)
}
