//! A QMP client for the few commands the tests send, to QEMU and to the daemon. It does not parse JSON:
//! a message is a line, and its kind shows in its first member. Every wait has an end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{POLL, Process};

/// No command of these tests takes longer, on a busy machine under software emulation.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A connected and negotiated monitor.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Qmp {
    /// Connects to the socket `path` of `process`, waiting for it to be there, and negotiates.
    pub fn connect(path: &Path, process: &mut Process) -> Self {
        let deadline = Instant::now() + TIMEOUT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "no QMP at {}: {error}", path.display()),
            }
            let end = process.exit_status();
            assert!(end.is_none(), "it ended with {end:?} instead of opening {}", path.display());
            thread::sleep(POLL);
        };
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        let mut qmp = Self { stream: BufReader::new(stream), events: Vec::new() };
        let greeting = qmp.line();
        assert!(greeting.starts_with(r#"{"QMP""#), "not a QMP greeting: {greeting}");
        qmp.execute("qmp_capabilities", "{}");
        qmp
    }

    /// Executes a command; `arguments` is a JSON object. Returns the reply, a JSON text.
    ///
    /// # Panics
    ///
    /// If the reply is an error.
    pub fn execute(&mut self, command: &str, arguments: &str) -> String {
        let reply = self.reply(command, arguments);
        assert!(matches!(Kind::of(&reply), Kind::Return), "{command} {arguments} was answered with {reply}");
        reply
    }

    fn reply(&mut self, command: &str, arguments: &str) -> String {
        let text = format!("{{\"execute\": \"{command}\", \"arguments\": {arguments}}}\n");
        self.stream.get_mut().write_all(text.as_bytes()).expect("the monitor takes a command");
        loop {
            let line = self.line();
            match Kind::of(&line) {
                Kind::Return | Kind::Error => return line,
                Kind::Event => self.events.push(line),
            }
        }
    }

    /// Executes a command that has to be refused. Returns the reply, a JSON text.
    pub fn refuses(&mut self, command: &str, arguments: &str) -> String {
        let reply = self.reply(command, arguments);
        assert!(matches!(Kind::of(&reply), Kind::Error), "{command} {arguments} was answered with {reply}");
        reply
    }

    /// Waits for an event that contains all of `words`; events that came before count, each once.
    pub fn wait_event(&mut self, words: &[&str]) -> String {
        let wanted = |line: &String| words.iter().all(|word| line.contains(word));
        loop {
            if let Some(at) = self.events.iter().position(wanted) {
                return self.events.swap_remove(at);
            }
            let line = self.line();
            self.events.push(line);
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        let len = read.unwrap_or_else(|error| panic!("no answer in time: {error}\nevents: {:#?}", self.events));
        assert_ne!(len, 0, "the monitor closed the connection");
        line
    }
}

/// A JSON text written over several lines, as a monitor takes it.
pub fn one_line(json: &str) -> String {
    json.replace('\n', " ")
}

enum Kind {
    Return,
    Error,
    Event,
}

impl Kind {
    fn of(line: &str) -> Self {
        match line {
            _ if line.starts_with(r#"{"return""#) => Self::Return,
            _ if line.starts_with(r#"{"error""#) => Self::Error,
            _ if line.contains(r#""event""#) => Self::Event,
            _ => panic!("neither reply nor event: {line}"),
        }
    }
}
