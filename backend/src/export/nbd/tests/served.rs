//! A server with a node behind it, in this process.

use crate::export::Exports;
use crate::export::nbd::{NbdAddress, NbdOptions, NbdServerOptions};
use crate::graph::Graph;
use crate::node::NodeOptions;
use crate::node::options::{ChildRef, Discard, DriverOptions, FileOptions, Locking};
use crate::node::qcow2::options::Qcow2Options;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

/// A server on a UNIX socket.
pub struct Served {
    pub dir: TempDir,
    pub graph: Arc<Graph>,
    pub exports: Arc<Exports>,
}

/// Options of an export of `node` under its own name.
pub fn export(node: &str) -> NbdOptions {
    NbdOptions {
        id: format!("export-{node}"),
        node: node.into(),
        name: node.into(),
        description: None,
        writable: true,
        writethrough: false,
        bitmaps: Vec::new(),
        allocation_depth: false,
    }
}

impl Served {
    /// One without exports.
    pub fn new() -> Self {
        Self::with(100)
    }

    /// One for so many clients.
    pub fn with(max_connections: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let graph = Graph::new();
        let exports = Exports::new(graph.clone(), Arc::new(|_| ()));
        let address = NbdAddress::Unix(dir.path().join("nbd.sock"));
        let options = NbdServerOptions { address, tls: None, max_connections, handshake_max: None };
        exports.start_nbd_server(options).unwrap();
        Self { dir, graph, exports }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of this content as node `name`.
    pub fn add_file(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
        self.open(name, file(&self.path(name)));
    }

    /// A sparse file of this length as node `name`.
    pub fn add_sparse(&self, name: &str, len: u64) {
        let file_of = OpenOptions::new().write(true).create_new(true).open(self.path(name)).unwrap();
        file_of.set_len(len).unwrap();
        self.open(name, file(&self.path(name)));
    }

    /// The image that is there as node `name`.
    pub fn add_image(&self, name: &str) {
        let below = NodeOptions { discard: Discard::Unmap, ..NodeOptions::new(file(&self.path(name))) };
        self.open(name, DriverOptions::Qcow2(Box::new(Qcow2Options::new(ChildRef::Inline(Box::new(below))))));
    }

    fn open(&self, name: &str, driver: DriverOptions) {
        let options = NodeOptions { node_name: Some(name.into()), discard: Discard::Unmap, ..NodeOptions::new(driver) };
        self.graph.open(&options).unwrap();
    }

    /// How a program names an export.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path("nbd.sock").display())
    }
}

fn file(path: &Path) -> DriverOptions {
    DriverOptions::File(FileOptions { filename: path.into(), locking: Locking::Off, device: false })
}

/// What a program prints.
///
/// # Panics
/// It fails.
pub fn run(program: &str, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(stdout).unwrap()
}
