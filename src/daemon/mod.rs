//! The daemon: options in, in the order given, each taking effect before the next is looked at; then it runs until a
//! signal or `quit`.
//!
//! Puts together what the options name and knows neither nodes nor exports: what `--blockdev`, `--export` and `--object`
//! say is what the commands `blockdev-add`, `block-export-add` and `object-add` are told.

mod background;
mod help;
mod monitors;
mod options;
mod pidfile;
mod program;

use crate::{grown, lifetime, logging};
use background::Background;
use monitors::Monitors;
use options::Id;
use pidfile::PidFile;
use program::Program;
use qmp_lite::context::Context;
use qmp_lite::dispatch::Dispatcher;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// What kept an option from taking effect: a text, and possibly a second line for people.
struct Refusal {
    text: String,
    hint: Option<String>,
}

impl From<qmp_lite::error::QmpError> for Refusal {
    fn from(error: qmp_lite::error::QmpError) -> Self {
        Self { text: error.desc, hint: error.hint }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self { text: format!("{error:#}"), hint: None }
    }
}

impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), hint: None }
    }
}

impl Refusal {
    /// Prints the message, naming the option if it is about one.
    fn report(&self, option: Option<&str>) -> ExitCode {
        match option {
            Some(option) => eprintln!("tidemark: {option}: {}", self.text),
            None => eprintln!("tidemark: {}", self.text),
        }
        if let Some(hint) = &self.hint {
            eprintln!("{hint}");
        }
        ExitCode::FAILURE
    }
}

/// What matters before any option takes effect.
#[derive(Default)]
struct Early {
    daemonize: bool,
    pidfile: Option<String>,
    program: Program,
}

/// Runs the daemon that `arguments` describe, to its end.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let Some(arguments) = arguments.iter().map(|argument| argument.to_str().map(str::to_owned)).collect() else {
        return Refusal::from("an argument is not valid UTF-8").report(None);
    };
    let arguments: Vec<String> = arguments;
    if arguments.is_empty() {
        eprint!("{}", help::USAGE);
        return ExitCode::FAILURE;
    }
    let early = match look_ahead(&arguments) {
        Ok(early) => early,
        Err(exit) => return exit,
    };
    let background = match early.daemonize {
        true => match Background::enter() {
            Ok(background) => background,
            Err(exit) => return exit,
        },
        false => Background::foreground(),
    };
    logging::start(None);
    match start_and_wait(&arguments, early, background) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit,
    }
}

/// Finds errors in the form of the options before anything is done, and answers what needs no daemon.
fn look_ahead(arguments: &[String]) -> Result<Early, ExitCode> {
    let mut early = Early::default();
    for given in options::scan(arguments) {
        let given = given.map_err(|text| Refusal { text, hint: None }.report(None))?;
        match given.id {
            Some(Id::Help) => return Err(say(help::USAGE.trim_end())),
            Some(Id::Version) => return Err(say(help::VERSION)),
            Some(Id::PrintCapabilities) => return Err(say(help::CAPABILITIES)),
            Some(Id::Daemonize) => early.daemonize = true,
            Some(Id::Pidfile) => early.pidfile = Some(given.value),
            Some(Id::SocketPath | Id::Fd | Id::BlkFile | Id::ReadOnly) => {
                early.program.take(&given).map_err(|refusal| refusal.report(Some(&given.shown)))?;
            }
            _ => {}
        }
    }
    early.program.check().map_err(|refusal| refusal.report(None))?;
    Ok(early)
}

fn say(text: &str) -> ExitCode {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn start_and_wait(arguments: &[String], early: Early, background: Background) -> Result<(), ExitCode> {
    let dispatcher = Dispatcher::new(Context::new());
    let quit = dispatcher.context().quit.clone();
    lifetime::obey_signals(quit.clone()).map_err(|error| Refusal::from(error).report(None))?;
    grown::watch(&dispatcher.context().graph);
    let mut monitors = Monitors::new(dispatcher.clone());
    let started = start(arguments, &early, &dispatcher, &mut monitors).and_then(|pidfile| {
        background.ready().map_err(|error| Refusal::from(error).report(None))?;
        Ok(pidfile)
    });
    if started.is_ok() {
        quit.wait();
    }
    dispatcher.close();
    monitors.stop();
    started.map(drop)
}

fn start(
    arguments: &[String],
    early: &Early,
    dispatcher: &Arc<Dispatcher>,
    monitors: &mut Monitors,
) -> Result<Option<PidFile>, ExitCode> {
    for given in options::scan(arguments) {
        let given = given.map_err(|text| Refusal { text, hint: None }.report(None))?;
        match apply(&given, dispatcher, monitors) {
            Ok(None) => {}
            Ok(Some(text)) => return Err(say(text)),
            Err(refusal) => return Err(refusal.report(Some(&given.shown))),
        }
    }
    early.program.start(dispatcher).map_err(|refusal| refusal.report(None))?;
    let pidfile = early.pidfile.as_deref().map(PidFile::write).transpose();
    let pidfile = pidfile.map_err(|error| Refusal::from(error.context("cannot create PID file")).report(None))?;
    monitors.serve().map_err(|refusal| refusal.report(None))?;
    Ok(pidfile)
}

/// Does what one option says; a text in return ends the program after it was printed.
fn apply(
    given: &options::Option,
    dispatcher: &Arc<Dispatcher>,
    monitors: &mut Monitors,
) -> Result<Option<&'static str>, Refusal> {
    let wants_help = matches!(given.value.as_str(), "help" | "?");
    let Some(id) = given.id else { return Err("Unexpected argument".into()) };
    match id {
        Id::Object if wants_help => {
            return Ok(Some(
                "List of user creatable objects:\n  authz-list\n  authz-simple\n  iothread\n  throttle-group\n  \
                 tls-creds-x509",
            ));
        }
        Id::Chardev if wants_help => return Ok(Some("Available chardev backend types: \n  socket")),
        Id::Blockdev | Id::Export | Id::Monitor | Id::NbdServer if wants_help => {
            return Err("Help is not available for this option".into());
        }
        Id::BackingDir => dispatcher.context().graph.allow_backing_in(given.value.as_str().into()),
        Id::Blockdev => drop(dispatcher.execute_option("blockdev-add", &given.value, Some("driver"))?),
        Id::Export => drop(dispatcher.execute_option("block-export-add", &given.value, Some("type"))?),
        Id::Object => drop(dispatcher.execute_option("object-add", &given.value, Some("qom-type"))?),
        Id::Chardev => monitors.add_chardev(&given.value)?,
        Id::Monitor => monitors.add_monitor(&given.value)?,
        Id::NbdServer => dispatcher.start_nbd_server(&given.value)?,
        Id::Trace => return Err("trace events are not supported; TIDEMARK_LOG=trace logs everything".into()),
        Id::Daemonize | Id::Pidfile | Id::SocketPath | Id::Fd | Id::BlkFile | Id::ReadOnly => {}
        // These ended the program before any option took effect.
        Id::Help | Id::Version | Id::PrintCapabilities => {}
    }
    Ok(None)
}
