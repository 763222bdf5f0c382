//! A client of the control socket: sends commands, waits for replies and events. It knows JSON, and no command.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Longer than anything asked for here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection in command mode.
pub struct Monitor {
    reader: BufReader<UnixStream>,
    line: String,
    replies: VecDeque<Value>,
    events: VecDeque<Value>,
}

impl Monitor {
    /// Connects and leaves negotiation mode.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(path: &Path) -> Result<Monitor> {
        let stream = UnixStream::connect(path).context("cannot connect to the control socket")?;
        stream.set_nonblocking(true)?;
        let mut monitor = Monitor {
            reader: BufReader::new(stream),
            line: String::new(),
            replies: VecDeque::new(),
            events: VecDeque::new(),
        };
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Runs a command and waits for what it returns.
    ///
    /// # Errors
    /// What the daemon answered, if it is an error.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = self.reply()? {
                return Ok(value);
            }
            anyhow::ensure!(Instant::now() < until, "no reply to {command}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Sends a command and does not wait.
    ///
    /// # Errors
    /// If the daemon has ended.
    pub fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        let text = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.reader.get_mut().write_all(text.as_bytes()).with_context(|| format!("cannot send {command}"))
    }

    /// What the oldest command sent has returned, if it has; never waits.
    ///
    /// # Errors
    /// What the daemon answered, if it is an error.
    pub fn reply(&mut self) -> Result<Option<Value>> {
        self.read()?;
        let Some(mut reply) = self.replies.pop_front() else { return Ok(None) };
        if let Some(error) = reply.get("error") {
            anyhow::bail!("the daemon answers {error}");
        }
        Ok(Some(reply.get_mut("return").map(Value::take).unwrap_or_default()))
    }

    /// The next event there is; never waits.
    ///
    /// # Errors
    /// If the daemon has ended.
    pub fn event(&mut self) -> Result<Option<Value>> {
        self.read()?;
        Ok(self.events.pop_front())
    }

    /// Waits until a job is gone, with all its events read.
    ///
    /// # Errors
    /// If it failed.
    pub fn job_gone(&mut self, job: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.event()? {
                Some(event) if is_gone(&event, job) => return Ok(()),
                Some(event) => {
                    let error = event.pointer("/data/error");
                    anyhow::ensure!(error.is_none(), "a job failed: {event}");
                }
                None => std::thread::sleep(Duration::from_micros(200)),
            }
            anyhow::ensure!(Instant::now() < until, "job {job} does not end");
        }
    }

    fn read(&mut self) -> Result<()> {
        loop {
            match self.reader.read_line(&mut self.line) {
                Ok(0) => anyhow::bail!("the daemon closed the control socket"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot read the control socket"),
            }
            let value: Value = serde_json::from_str(&self.line).with_context(|| self.line.clone())?;
            self.line.clear();
            if value.get("event").is_some() {
                self.events.push_back(value);
            } else if value.get("QMP").is_none() {
                self.replies.push_back(value);
            }
        }
    }
}

/// Whether an event says that a job is gone.
pub fn is_gone(event: &Value, job: &str) -> bool {
    event.pointer("/data/id").is_some_and(|id| id == job)
        && event.pointer("/data/status").is_some_and(|status| status == "null")
}
