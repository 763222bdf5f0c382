//! A daemon's disks, bitmaps, nodes and jobs, by its control socket.
//!
//! Knows the commands of QMP that a backup takes and the members of their results; shows nothing to anybody.

use anyhow::{Context as _, Result, bail};
use qmp_lite::client::{Arguments, Client, ClientError, Introspection};
use qmp_lite::document;
use qmp_lite::error::QmpError;
use qmp_lite::wire::{Value, parse, to_line};
use serde::Serialize;
use std::path::Path;

/// A connection to a daemon.
pub struct Daemon {
    client: Client,
    server: Introspection,
}

/// A disk of the daemon.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its node.
    pub node: String,
    /// Its size in bytes.
    pub size: u64,
    /// The names of its bitmaps.
    pub bitmaps: Vec<String>,
}

/// How far a job is.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its state, such as `running`.
    pub status: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do, those done among them.
    pub total: u64,
    /// Why it failed.
    pub error: Option<String>,
}

impl Job {
    /// Whether it has its result.
    pub fn is_concluded(&self) -> bool {
        self.status == "concluded"
    }
}

impl Daemon {
    /// Connects.
    ///
    /// # Errors
    /// There is no daemon at `socket`, or it does not speak QMP.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let mut client = Client::connect(socket, |_| {})?;
        let server = client.introspect()?;
        Ok(Self { client, server })
    }

    /// Runs a command with arguments as `tidemark ctl` takes them: `name=value`, `outer.inner=value`, `list.0=value`.
    ///
    /// # Errors
    /// The daemon's refusal, or that it is gone.
    pub fn execute(&mut self, command: &str, arguments: &[String]) -> Result<Value, ClientError> {
        let arguments = Arguments::parse(arguments, command, &self.server)?;
        let text = self.client.execute(command, &arguments)?.text(false);
        parse(&text).map_err(|error| ClientError::Argument(error.desc))
    }

    /// Runs a command with arguments that are a value of a type.
    ///
    /// # Errors
    /// As [`Daemon::execute`].
    pub fn command(&mut self, command: &str, arguments: &impl Serialize) -> Result<Value, ClientError> {
        let wrong = |error: QmpError| ClientError::Argument(error.desc);
        let value = document::to_value(arguments).map_err(wrong)?;
        self.execute(command, &[to_line(&value)])
    }

    /// Whether a command of the daemon takes an argument of this name.
    pub fn takes(&self, command: &str, argument: &str) -> bool {
        self.server.arguments(command).iter().any(|name| name == argument)
    }

    /// Finds a disk by the id of its export or the name of its node.
    ///
    /// # Errors
    /// There is none; the text says which there are.
    pub fn disk(&mut self, name: &str) -> Result<Disk> {
        let exports = self.execute("query-block-exports", &[])?;
        let exported = list(&exports).find(|export| text(export, "id") == Some(name));
        let node = exported.and_then(|export| text(export, "node-name")).unwrap_or(name);
        let nodes = self.execute("query-named-block-nodes", &["flat=on".into()])?;
        let Some(found) = list(&nodes).find(|candidate| text(candidate, "node-name") == Some(node)) else {
            let ids = list(&exports).filter_map(|export| text(export, "id"));
            bail!("there is no disk '{name}'; {}", which("the daemon exports", ids));
        };
        let size = found["image"]["virtual-size"].as_u64().context("the daemon does not say how large the disk is")?;
        let bitmaps = list(&found["dirty-bitmaps"]).filter_map(|bitmap| text(bitmap, "name"));
        Ok(Disk { node: node.to_owned(), size, bitmaps: bitmaps.map(str::to_owned).collect() })
    }

    /// The state of a job; `None` if there is no such job.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn job(&mut self, id: &str) -> Result<Option<Job>, ClientError> {
        let jobs = self.execute("query-jobs", &[])?;
        let number = |job: &Value, name: &str| job[name].as_u64().unwrap_or(0);
        let found = list(&jobs).find(|job| text(job, "id") == Some(id));
        Ok(found.map(|job| Job {
            status: text(job, "status").unwrap_or_default().to_owned(),
            done: number(job, "current-progress"),
            total: number(job, "total-progress"),
            error: text(job, "error").map(str::to_owned),
        }))
    }

    /// Copies that a backup has made because a guest was about to write.
    ///
    /// # Errors
    /// The daemon is gone, or it does not count them.
    pub fn copies_before_writes(&mut self, job: &str) -> Result<u64> {
        let jobs = self.execute("query-block-jobs", &[])?;
        let found = list(&jobs).find(|candidate| text(candidate, "device") == Some(job));
        let copies = found.and_then(|job| job["x-cbw-copies"].as_u64());
        copies.with_context(|| format!("the daemon does not say how many copies writes made for job '{job}'"))
    }

    /// Removes a node.
    ///
    /// # Errors
    /// The daemon's refusal, or that it is gone.
    pub fn delete_node(&mut self, name: &str) -> Result<(), ClientError> {
        self.execute("blockdev-del", &[format!("node-name={name}")]).map(drop)
    }

    /// Forgets a job that has its result.
    ///
    /// # Errors
    /// The daemon's refusal, or that it is gone.
    pub fn dismiss(&mut self, job: &str) -> Result<(), ClientError> {
        self.execute("job-dismiss", &[format!("id={job}")]).map(drop)
    }
}

/// A list of what there is, for people who named something else.
pub fn which<'a>(there_are: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { format!("{there_are} none") } else { format!("{there_are}: {}", names.join(", ")) }
}

/// A member that is a text.
pub fn text<'a>(value: &'a Value, member: &str) -> Option<&'a str> {
    value.get(member).and_then(Value::as_str)
}

/// The elements of a list; none of what is no list.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
