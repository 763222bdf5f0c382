//! Monitors: QMP over a character device, one client at a time.
//!
//! Knows sockets and threads, not commands. Each monitor has a thread that reads and runs commands and
//! one that writes; a client that does not read stops its own commands only.

mod connection;
mod outbox;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::chardev::Chardev;
use crate::dispatch::Dispatcher;
use crate::error::QmpError;
use crate::keyval;
use crate::schema::{Input, Qapi, qapi_enum, qapi_struct};
use connection::Connection;

qapi_struct! {
    /// Options of a monitor.
    pub struct MonitorOptions "MonitorOptions" {
        /// A name for it.
        "id" id: Option<String>,
        /// The kind of monitor; control if absent.
        "mode" mode: Option<MonitorMode>,
        /// Print every member of a reply on a line of its own. Off if absent.
        "pretty" pretty: Option<bool>,
        /// The character device to talk over.
        "chardev" chardev: String,
    }
}

qapi_enum! {
    /// The kinds of monitor.
    pub enum MonitorMode "MonitorMode" {
        /// QMP.
        Control = "control",
    }
    unsupported "Monitor mode" ["readline"]
}

impl MonitorOptions {
    /// Reads the argument of `--monitor`.
    ///
    /// # Errors
    /// QEMU's text for what is wrong with it.
    pub fn parse(option: &str) -> Result<Self, QmpError> {
        let (value, mode) = keyval::parse_option(option, Some("chardev"))?;
        Self::decode(Input::new(&value, mode))
    }
}

/// A monitor that runs until it is stopped, or until its only connection ends.
pub struct Monitor {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// What the monitor's threads and its owner share.
struct Shared {
    chardev: Chardev,
    pretty: bool,
    dispatcher: Arc<Dispatcher>,
    stopping: AtomicBool,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Monitor {
    /// Starts serving `chardev`.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(chardev: Chardev, options: &MonitorOptions, dispatcher: Arc<Dispatcher>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            chardev,
            pretty: options.pretty.unwrap_or(false),
            dispatcher,
            stopping: AtomicBool::new(false),
            connection: Mutex::default(),
        });
        let thread = std::thread::Builder::new().name("qmp".into());
        let thread = thread.spawn({
            let shared = shared.clone();
            move || shared.serve()
        })?;
        Ok(Self { shared, thread })
    }

    /// Takes no more commands, sends what is still to be sent (to a client that reads), and ends.
    pub fn stop(self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.chardev.close();
        if let Some(connection) = self.shared.connection().as_ref() {
            connection.hang_up();
        }
        if self.thread.join().is_err() {
            tracing::error!("a monitor's thread has panicked");
        }
    }
}

impl Shared {
    /// Serves one client after the other.
    fn serve(&self) {
        while let Some(socket) = self.chardev.accept() {
            let connection = match Connection::new(socket, self.pretty) {
                Ok(connection) => Arc::new(connection),
                Err(error) => {
                    tracing::warn!("QMP client refused: {error}");
                    continue;
                }
            };
            *self.connection() = Some(connection.clone());
            // Whoever sets the flag hangs up a connection it finds; this one it may have missed.
            if self.stopping.load(Ordering::Acquire) {
                connection.hang_up();
            }
            connection.serve(&self.dispatcher, &self.stopping);
            *self.connection() = None;
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
