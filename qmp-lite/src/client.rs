//! The other end of a monitor: connects, negotiates, runs commands, hands out events.
//!
//! Knows the protocol, not the commands: what a server has and how its arguments are typed, the server says itself
//! ([`Introspection`]). So it speaks to any QMP server, `qemu-storage-daemon` among them.

mod arguments;
mod introspection;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidemark_backend::error::errno_text;

use crate::wire::{Reader, to_line, to_pretty_lines};
pub use arguments::Arguments;
pub use introspection::Introspection;

/// How long a server may take to greet. One that has a client already does not greet a second one.
const GREETING: Duration = Duration::from_secs(5);
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection.
    #[error("cannot connect to '{path}': {}", errno_text(reason))]
    Connect {
        /// The socket.
        path: String,
        /// The system's reason.
        reason: io::Error,
    },
    /// The server does not greet.
    #[error("'{0}' does not greet like a QMP server; it may be busy with another client")]
    NoGreeting(String),
    /// The server is gone.
    #[error("the server has closed the connection")]
    Closed,
    /// The server refuses.
    #[error("{class}: {desc}")]
    Refused {
        /// The error's class.
        class: String,
        /// The error's text.
        desc: String,
    },
    /// An argument that cannot be sent; the text says why.
    #[error("{0}")]
    Argument(String),
}

/// What a command returned.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply(Value);

impl Reply {
    /// The value as JSON without a line end, indented if `pretty`.
    pub fn text(&self, pretty: bool) -> String {
        print(&self.0, pretty)
    }
}

/// A connection, ready for commands.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    replies: Receiver<Value>,
}

impl Client {
    /// Connects to the UNIX socket `path` and negotiates. From then on `event` is given each event as a line of JSON,
    /// from another thread.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::NoGreeting`].
    pub fn connect(path: &Path, event: impl Fn(&str) + Send + 'static) -> Result<Self, ClientError> {
        let shown = path.display().to_string();
        let failed = |reason| ClientError::Connect { path: shown.clone(), reason };
        let socket = UnixStream::connect(path).map_err(failed)?;
        let reading = socket.try_clone().map_err(failed)?;
        let (sender, replies) = channel();
        let thread = std::thread::Builder::new().name("qmp-client".into());
        thread.spawn(move || read(reading, &sender, &event)).map_err(failed)?;
        let mut client = Self { socket, replies };
        match client.replies.recv_timeout(GREETING) {
            Ok(greeting) if greeting.get("QMP").is_some() => {}
            Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(ClientError::NoGreeting(shown));
            }
        }
        client.execute("qmp_capabilities", &Arguments::default())?;
        Ok(client)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what the server says, [`ClientError::Closed`].
    pub fn execute(&mut self, command: &str, arguments: &Arguments) -> Result<Reply, ClientError> {
        let mut request = Map::new();
        request.insert("execute".into(), command.into());
        if !arguments.is_empty() {
            request.insert("arguments".into(), arguments.value());
        }
        let line = to_line(&Value::Object(request));
        self.socket.write_all(line.as_bytes()).map_err(|_| ClientError::Closed)?;
        let reply = self.replies.recv().map_err(|_| ClientError::Closed)?;
        let text = |error: &Value, member: &str| match error.get(member) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        match (reply.get("return"), reply.get("error")) {
            (Some(value), _) => Ok(Reply(value.clone())),
            (None, Some(error)) => Err(ClientError::Refused { class: text(error, "class"), desc: text(error, "desc") }),
            (None, None) => Err(ClientError::Closed),
        }
    }

    /// What the server says of its commands; nothing if it does not say.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub fn introspect(&mut self) -> Result<Introspection, ClientError> {
        let mut ask = |command| match self.execute(command, &Arguments::default()) {
            Ok(Reply(value)) => Ok(value),
            Err(ClientError::Refused { .. }) => Ok(json!([])),
            Err(error) => Err(error),
        };
        let commands = ask("query-commands")?;
        Ok(Introspection::new(&commands, ask("query-qmp-schema")?))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Fails when the server was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Sorts what the server sends, until it sends no more.
fn read(mut socket: UnixStream, replies: &Sender<Value>, event: &impl Fn(&str)) {
    let mut reader = Reader::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut open = true;
    while open {
        let len = match socket.read(&mut buffer) {
            Ok(len) if len > 0 => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(_) | Err(_) => break,
        };
        reader.feed(buffer.get(..len).unwrap_or_default(), |message| match message {
            Ok(message) if message.get("event").is_some() => event(&print(&message, false)),
            Ok(message) => open &= replies.send(message).is_ok(),
            // Not QMP: whoever waits for a reply learns that there will be none.
            Err(_) => open = false,
        });
    }
}

/// JSON for people and pipes: no carriage returns, and nothing on a line of its own in what is empty.
fn print(value: &Value, pretty: bool) -> String {
    let is_empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    let print = if pretty && !is_empty { to_pretty_lines } else { to_line };
    print(value).replace('\r', "").trim_end().to_owned()
}
