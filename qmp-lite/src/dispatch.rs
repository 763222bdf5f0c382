//! Runs commands, whoever asks: monitors, the command line, tests.
//!
//! Knows the table of commands and that those which change something run one at a time; knows no connection.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::command;
use crate::context::{Context, Origin};
use crate::error::QmpError;
use crate::export::nbd::NbdServer;
use crate::keyval;
use crate::schema::{Input, Mode};

/// The one door to everything commands act on.
pub struct Dispatcher {
    context: Context,
    control: Mutex<()>,
}

impl Dispatcher {
    /// A dispatcher for what `context` holds.
    pub fn new(context: Context) -> Arc<Self> {
        Arc::new(Self { context, control: Mutex::new(()) })
    }

    /// What the commands act on.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Runs a command with JSON arguments, after those that are running; a query does not wait for them.
    ///
    /// # Errors
    /// An unknown command, arguments that do not fit it, or its own failure.
    pub fn execute(&self, name: &str, arguments: &Value) -> Result<Value, QmpError> {
        self.run(name, Input::new(arguments, Mode::Json), Origin::Monitor)
    }

    /// Runs a command with the argument of a command line option as its arguments: JSON if it
    /// begins with a brace, else `key=value` pairs, the first of which may lack the key `implied`.
    ///
    /// # Errors
    /// A malformed option, and as [`Dispatcher::execute`].
    pub fn execute_option(&self, name: &str, option: &str, implied: Option<&str>) -> Result<Value, QmpError> {
        let (arguments, mode) = keyval::parse_option(option, implied)?;
        self.run(name, Input::new(&arguments, mode), Origin::CommandLine)
    }

    /// Starts the NBD server that a command line option describes.
    ///
    /// # Errors
    /// A malformed option; the server cannot be started.
    pub fn start_nbd_server(&self, option: &str) -> Result<(), QmpError> {
        let _running = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        NbdServer::start_option(&Context { origin: Origin::CommandLine, ..self.context.clone() }, option)
    }

    /// Ends all exports, with their events, and closes all nodes. No command is run afterwards, and
    /// the daemon is asked to end. Safe to repeat.
    pub fn close(&self) {
        let _running = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        self.context.close();
        self.context.quit.request();
    }

    fn run(&self, name: &str, input: Input<'_>, origin: Origin) -> Result<Value, QmpError> {
        let Some(command) = command::find(name) else {
            let text = format!("The command {name} has not been found");
            return Err(QmpError::command_not_found(text));
        };
        // Storage may be slow: whoever opens an image on it does not keep others from looking.
        let running = || self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let _running = (!command.only_looks()).then(running);
        if self.context.quit.is_requested() {
            return Err(QmpError::generic("The daemon is ending"));
        }
        (command.run)(&Context { origin, ..self.context.clone() }, input)
    }
}
