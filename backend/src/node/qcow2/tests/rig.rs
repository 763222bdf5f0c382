//! Images that QEMU's tools make, in a directory of their own, and a real ring to read them with.

use crate::error::IoError;
use crate::graph::Graph;
use crate::io::{Buf, Memory, Op, Uring, Wait, Workers};
use crate::node::options::{DriverOptions, FileOptions, Locking};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::open::{Files, OpenError, Options, read_header};
use crate::node::{Driver, Kind, Map, Node, NodeOptions, Request};
use crate::reactor::{Handle, Reactor};
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use tempfile::TempDir;

/// The directory, the nodes and the reactor of this thread.
pub struct Rig {
    directory: TempDir,
    graph: Arc<Graph>,
    reactor: Reactor,
}

impl Rig {
    pub fn new() -> Self {
        let graph = Graph::new();
        let ring = Uring::new(graph.files().clone(), Workers::new()).unwrap();
        Self { directory: TempDir::new().unwrap(), graph, reactor: Reactor::new(Box::new(ring)).unwrap() }
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs one of QEMU's tools in the directory; it has to end well.
    pub fn tool(&self, tool: &str, arguments: &[&str]) {
        let output = Command::new(tool).args(arguments).current_dir(self.directory.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.contains("failed"), "{tool} {arguments:?}: {text}");
    }

    /// What a guest sees of an image, as QEMU has it.
    pub fn content_by_qemu(&self, name: &str) -> Vec<u8> {
        self.tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", name, "converted"]);
        std::fs::read(self.path("converted")).unwrap()
    }

    /// A read-only node over a file.
    pub fn file(&self, name: &str) -> Arc<Node> {
        let file = FileOptions { filename: self.path(name), locking: Locking::Off, device: false };
        let options = NodeOptions { read_only: true.into(), ..NodeOptions::new(DriverOptions::File(file)) };
        let number = self.graph.nodes().len();
        self.graph.open(&NodeOptions { node_name: Some(format!("file{number}")), ..options }).unwrap()
    }

    /// A read-only node over an image with these other files.
    pub fn image(&mut self, name: &str, data: Option<Arc<Node>>, backing: Option<Arc<Node>>) -> Arc<Node> {
        self.try_image(name, data, backing).unwrap()
    }

    /// The same, which may fail.
    pub fn try_image(
        &mut self,
        name: &str,
        data: Option<Arc<Node>>,
        backing: Option<Arc<Node>>,
    ) -> Result<Arc<Node>, OpenError> {
        let files = Files { file: self.file(name), data, backing };
        let options = NodeOptions {
            node_name: Some(name.into()),
            read_only: true.into(),
            ..NodeOptions::new(DriverOptions::File(FileOptions {
                filename: self.path(name),
                locking: Locking::Off,
                device: false,
            }))
        };
        // As little memory as there can be, so that tables come and go.
        let small = Options {
            read_only: true,
            l2_cache_bytes: 0,
            refcount_cache_bytes: 0,
            pass_discard: false,
            journal: None,
            changes: None,
        };
        self.run(|io| async move {
            let header = read_header(&io, &files.file).await?;
            let image = Image::open(&io, &header, files, &small).await?;
            Ok(Node::simulated(&options, Driver::Qcow2(Box::new(image)), header.size))
        })
    }

    /// Runs a task to its end.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(&mut self, task: impl FnOnce(Handle) -> F) -> T {
        let slot = Rc::new(RefCell::new(None));
        let (future, result) = (task(self.reactor.handle().clone()), slot.clone());
        self.reactor.handle().spawn(async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        loop {
            if let Some(value) = slot.take() {
                return value;
            }
            self.reactor.turn(Wait::Forever, || slot.borrow().is_some(), |_| ());
        }
    }

    /// Reads as a queue does: on the fast path where there is one.
    pub fn read(&mut self, node: &Arc<Node>, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
        self.read_with(node, offset, len, true)
    }

    /// Reads by a task, whatever the fast path says.
    pub fn read_by_task(&mut self, node: &Arc<Node>, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
        self.read_with(node, offset, len, false)
    }

    fn read_with(&mut self, node: &Arc<Node>, offset: u64, len: usize, fast: bool) -> Result<Vec<u8>, IoError> {
        let mut buf = Buf::new(len);
        // What is not filled in is not taken for zeroes.
        buf.as_mut_slice().fill(0xee);
        let node = node.clone();
        let read = Request { kind: Kind::Read, fua: false, offset, len: len as u64, memory: Memory::from(buf) };
        let (memory, result) = self.run(|io| async move {
            let mut request = read;
            match if fast { node.map(&request) } else { Map::Task } {
                Map::File { file, offset, .. } => {
                    let (op, result) = io.run(Op::read(file, offset, request.memory)).await;
                    (op.memory, result)
                }
                Map::Ended(result) => (request.memory, result),
                Map::Zeroes => {
                    request.memory.fill_zero(0, request.len);
                    (request.memory, Ok(()))
                }
                Map::Task => node.handle(&io, request).await,
            }
        });
        result.map(|()| memory.into_buf().unwrap().as_slice().to_vec())
    }
}
