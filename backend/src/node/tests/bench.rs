//! A node under test: reactors of a simulated machine, its disk, and the node on top.

use crate::error::IoError;
use crate::graph::Graph;
use crate::io::sim::{Faults, PortId, World};
use crate::io::{Buf, FileId, Memory};
use crate::node::options::{Discard, DriverOptions, FileOptions, Locking};
use crate::node::{Driver, File, Kind, Node, NodeOptions, Outcome, Request, Status};
use crate::reactor::Reactor;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// A machine with two reactors and one disk.
pub struct Bench {
    pub world: World,
    pub graph: Arc<Graph>,
    pub image: NamedTempFile,
    reactors: Vec<(PortId, Reactor)>,
}

/// How a request has ended; `None` while it has not.
pub type Slot = Rc<RefCell<Option<Outcome>>>;

impl Bench {
    pub fn new(seed: u64, content: &[u8], alignment: u32) -> Self {
        let image = NamedTempFile::new().unwrap();
        std::fs::write(image.path(), content).unwrap();
        let world = World::new(seed);
        world.add_disk(FileId(0), content.to_vec(), alignment);
        let reactor = |_| {
            let io = world.io(16);
            (io.port(), Reactor::new(Box::new(io)).unwrap())
        };
        let reactors = (0..2).map(reactor).collect();
        Self { world, graph: Graph::new(), image, reactors }
    }

    pub fn with_faults(self, faults: Faults) -> Self {
        self.world.set_faults(faults);
        self
    }

    /// The file node, discards passed on; with direct I/O on blocks of `alignment` if there is one.
    pub fn file(&self, alignment: Option<u32>) -> Arc<Node> {
        let options = file_options(self.image.path());
        let Some(alignment) = alignment else { return self.graph.open(&options).unwrap() };
        let DriverOptions::File(how) = &options.driver else { unreachable!("made above") };
        let (file, length) = File::open(&options, how, self.graph.files()).unwrap();
        Node::simulated(&options, Driver::File(file.with_direct_alignment(alignment)), length)
    }

    /// Starts a request on one of the reactors.
    pub fn begin(&self, reactor: usize, node: &Arc<Node>, request: Request) -> Slot {
        let slot = Slot::default();
        let (node, handle, result) = (node.clone(), self.reactors[reactor].1.handle().clone(), slot.clone());
        self.reactors[reactor].1.handle().spawn(async move {
            let outcome = node.handle(&handle, request).await;
            *result.borrow_mut() = Some(outcome);
        });
        slot
    }

    /// Steps everybody until all these requests have ended.
    pub fn finish(&mut self, slots: &[&Slot]) {
        let ended = || slots.iter().all(|slot| slot.borrow().is_some());
        while !ended() {
            let mut stepped = false;
            for (port, reactor) in &mut self.reactors {
                if self.world.is_awake(*port) || reactor.has_ready_tasks() {
                    reactor.turn(crate::io::Wait::Forever, || false, |_| ());
                    stepped = true;
                }
            }
            assert!(stepped || ended() || self.world.advance(), "everybody sleeps");
        }
    }

    /// One request from beginning to end.
    pub fn run(&mut self, node: &Arc<Node>, request: Request) -> Outcome {
        let slot = self.begin(0, node, request);
        self.finish(&[&slot]);
        slot.take().unwrap()
    }

    pub fn write(&mut self, node: &Arc<Node>, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.run(node, write(offset, data)).1
    }

    pub fn read(&mut self, node: &Arc<Node>, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
        let memory = Memory::from(Buf::new(len));
        let request = Request { kind: Kind::Read, fua: false, offset, len: len as u64, memory };
        let (memory, result) = self.run(node, request);
        result.map(|()| memory.into_buf().unwrap().as_slice().to_vec())
    }

    pub fn bare(&mut self, node: &Arc<Node>, kind: Kind, offset: u64, len: u64) -> Result<(), IoError> {
        self.run(node, bare(kind, offset, len)).1
    }

    /// Ends what a failed flush has begun, if a flush succeeds now.
    pub fn revive(&mut self, node: &Arc<Node>) -> Result<bool, IoError> {
        let result = Rc::new(RefCell::new(None));
        let (node, handle, revived) = (node.clone(), self.reactors[0].1.handle().clone(), result.clone());
        let done = Slot::default();
        let slot = done.clone();
        self.reactors[0].1.handle().spawn(async move {
            let Driver::File(file) = node.driver() else { unreachable!("a file") };
            *revived.borrow_mut() = Some(file.revive(&handle).await);
            *slot.borrow_mut() = Some((Memory::empty(), Ok(())));
        });
        self.finish(&[&done]);
        result.take().unwrap()
    }

    /// What is known of the content from `offset` on.
    pub fn status(&mut self, node: &Arc<Node>, offset: u64, len: u64) -> Result<Status, IoError> {
        let result = Rc::new(RefCell::new(None));
        let (node, handle, status) = (node.clone(), self.reactors[0].1.handle().clone(), result.clone());
        let done = Slot::default();
        let slot = done.clone();
        self.reactors[0].1.handle().spawn(async move {
            *status.borrow_mut() = Some(node.status(&handle, offset, len).await);
            *slot.borrow_mut() = Some((Memory::empty(), Ok(())));
        });
        self.finish(&[&done]);
        result.take().unwrap()
    }

    /// What the disk holds.
    pub fn content(&self) -> Vec<u8> {
        self.world.content(FileId(0))
    }

    /// Kills everybody and cuts the power.
    pub fn cut_power(mut self) -> Vec<u8> {
        self.reactors.clear();
        self.world.crash();
        self.content()
    }
}

pub fn file_options(path: &Path) -> NodeOptions {
    let file = FileOptions { filename: path.to_owned(), locking: Locking::Auto, device: false };
    let options = NodeOptions::new(DriverOptions::File(file));
    NodeOptions { node_name: Some("file".into()), discard: Discard::Unmap, ..options }
}

pub fn write(offset: u64, data: &[u8]) -> Request {
    let mut buf = Buf::new(data.len());
    buf.as_mut_slice().copy_from_slice(data);
    Request { kind: Kind::Write, fua: false, offset, len: data.len() as u64, memory: Memory::from(buf) }
}

pub fn bare(kind: Kind, offset: u64, len: u64) -> Request {
    Request { kind, fua: false, offset, len, memory: Memory::empty() }
}
