//! A daemon, ours or QEMU's, with its monitor and the shell lines that are run beside it. Knows no protocol.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use qmp_lite::wire::Value;

use crate::cli::process::{TIMEOUT, wait_until};
use crate::qmp::daemon::Client;
use crate::qmp::schema::list;
use crate::vhost::daemon::{Daemon, FILE};

/// A daemon with a raw disk `disk` as node `n`, and a guest's socket `blk`.
pub struct Site {
    /// The daemon.
    pub daemon: Daemon,
    /// Its monitor.
    pub client: Client,
}

impl Site {
    /// Starts a program.
    pub fn new(program: &'static str) -> Self {
        let daemon = Daemon::of(program, FILE, "");
        let client = daemon.qmp();
        Self { daemon, client }
    }

    /// Runs a command, which has to succeed.
    pub fn run(&mut self, command: &str, arguments: &str) -> Value {
        self.client.succeed(&format!("{{'execute': '{command}', 'arguments': {{{arguments}}}}}"))
    }

    /// Starts the NBD server on the socket `nbd`, with more options.
    pub fn serve(&mut self, more: &str) {
        self.run("nbd-server-start", &format!("'addr': {{'type': 'unix', 'data': {{'path': 'nbd'}}}} {more}"));
    }

    /// Starts the NBD server on a port of its own, with more options; the port.
    pub fn serve_tcp(&mut self, more: &str) -> u16 {
        let place = "'host': '127.0.0.1', 'port': '0'";
        self.run("nbd-server-start", &format!("'addr': {{'type': 'inet', 'data': {{{place}}}}} {more}"));
        listening_port(self.daemon.pid().as_raw_nonzero().get())
    }

    /// Exports a node by its name, with more options.
    pub fn export(&mut self, node: &str, more: &str) {
        self.run("block-export-add", &format!("'type': 'nbd', 'id': 'nbd-{node}', 'node-name': '{node}' {more}"));
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.daemon.file(name)
    }

    /// What a shell line does in the daemon's directory.
    pub fn shell(&self, line: &str) -> Output {
        shell(&self.daemon, line)
    }

    /// What a shell line prints, which has to succeed.
    pub fn succeed(&self, line: &str) -> String {
        succeed(&self.daemon, line)
    }

    /// How many bytes a bitmap marks.
    pub fn marked(&mut self, node: &str, bitmap: &str) -> u64 {
        let nodes = self.client.succeed("{'execute': 'query-named-block-nodes'}");
        let node = list(&nodes).iter().find(|found| found["node-name"] == node).expect("the node").clone();
        let bitmap = list(&node["dirty-bitmaps"]).iter().find(|found| found["name"] == bitmap);
        bitmap.expect("the bitmap")["count"].as_u64().expect("a count")
    }

    /// Waits until a job is in a state; `gone`: until it is not there.
    pub fn wait_job(&mut self, job: &str, state: &str) {
        wait_until(&format!("{job} {state}"), || {
            let jobs = self.client.succeed("{'execute': 'query-jobs'}");
            let status = list(&jobs).iter().find(|found| found["id"] == job).map(|job| job["status"].clone());
            status.map_or(state == "gone", |status| status == state)
        });
    }
}

/// The port that a process listens on (proc(5), `/proc/net/tcp`).
fn listening_port(pid: i32) -> u16 {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let files: Vec<PathBuf> = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok()).collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let sockets = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut ports = sockets.filter(|socket| {
        let (is_listening, name) = (socket[3] == "0A", format!("socket:[{}]", socket[9]));
        is_listening && files.iter().any(|file| file.as_os_str() == name.as_str())
    });
    let port = ports.next().and_then(|socket| socket[1].rsplit_once(':')?.1.into());
    u16::from_str_radix(port.expect("a listening socket"), 16).unwrap()
}

/// What a shell line does in a daemon's directory.
pub fn shell(daemon: &Daemon, line: &str) -> Output {
    let seconds = TIMEOUT.as_secs().to_string();
    let mut command = Command::new("timeout");
    command.args(["-k", "1", &seconds, "sh", "-c", line]).current_dir(daemon.file("disk").parent().unwrap());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_ne!(output.status.code(), Some(124), "{line} does not end: {output:?}");
    output
}

/// What a shell line prints, which has to succeed.
pub fn succeed(daemon: &Daemon, line: &str) -> String {
    let output = shell(daemon, line);
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {said}{errors}");
    said.into_owned()
}
