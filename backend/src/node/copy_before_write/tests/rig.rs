//! A disk that is written through a copy-before-write filter, its target, and a reader of the past: two reactors of a
//! simulated machine, each with a door to the filter.

use crate::bitmaps::{Committed, Stage};
use crate::error::{GraphError, IoError};
use crate::graph::Graph;
use crate::io::sim::{Faults, PortId, World};
use crate::io::{Buf, FileId, Memory, Wait};
use crate::node::copy_before_write::{CbwOptions, CopyBeforeWrite};
use crate::node::options::{
    BlkDebugOptions, ChildRef, CopyBeforeWriteOptions, Delays, Discard, DriverOptions, FileOptions, Locking,
    NullOptions,
};
use crate::node::{Driver, Kind, Map, Node, NodeOptions, Outcome, Request, Root};
use crate::reactor::{Handle, Reactor};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Bytes of the disk.
pub const LEN: usize = 1 << 20;
/// Bytes of a chunk of a disk of that size.
pub const CHUNK: u64 = 4096;
/// What the target holds before anything is copied there.
pub const GARBAGE: u8 = 0x5a;
/// What guests write.
pub const NEW: u8 = 0xee;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// How a request has ended; `None` while it has not.
pub type Slot = Rc<RefCell<Option<Outcome>>>;

/// How to keep the past.
pub struct Setup {
    pub seed: u64,
    pub options: CbwOptions,
    /// How slow the target is.
    pub target: Delays,
    /// Only these ranges are kept, in blocks of so many bytes.
    pub bitmap: Option<(u64, Vec<(u64, u64)>)>,
    /// Of the filter.
    pub discard: Discard,
    /// Bytes of a disk and a target that hold nothing, instead of simulated ones.
    pub null: Option<u64>,
}

impl Default for Setup {
    fn default() -> Self {
        let (options, target) = (CbwOptions::default(), Delays::default());
        Self { seed: 1, options, target, bitmap: None, discard: Discard::Unmap, null: None }
    }
}

/// One thread.
struct Seat {
    port: PortId,
    reactor: Reactor,
    root: Option<Rc<Root>>,
}

pub struct Rig {
    pub world: World,
    pub graph: Arc<Graph>,
    pub copy: Arc<CopyBeforeWrite>,
    pub past: Arc<Node>,
    seats: Vec<Seat>,
    _images: [NamedTempFile; 2],
}

/// What the disk holds at the beginning: never the same in two sectors, and nothing that guests write.
pub fn old() -> Vec<u8> {
    (0..LEN).map(|at| (at >> if at % 2 == 0 { 9 } else { 17 }).to_le_bytes()[0]).collect()
}

impl Rig {
    pub fn new(setup: Setup) -> Self {
        let (world, graph) = (World::new(setup.seed), Graph::new());
        let images = [old(), vec![GARBAGE; LEN]].map(|content| {
            let image = NamedTempFile::new().unwrap();
            std::fs::write(image.path(), content).unwrap();
            image
        });
        for (name, image) in ["d", "file"].into_iter().zip(&images) {
            let node = graph.open(&storage(name, image.path(), setup.null)).unwrap();
            file_of(&node).into_iter().for_each(|file| world.add_disk(file, std::fs::read(image.path()).unwrap(), 1));
        }
        graph.open(&slow("t", "file", setup.target)).unwrap();
        let bitmap = setup.bitmap.as_ref().map(|(block, ranges)| mark(&graph, *block, ranges));
        let filter = graph.open(&filter(&setup, bitmap)).unwrap();
        let past = DriverOptions::SnapshotAccess(ChildRef::Name("cbw".into()));
        let past = graph.open(&named("past", Discard::Unmap, past)).unwrap();
        let Driver::CopyBeforeWrite(driver) = filter.driver() else { unreachable!("opened as one") };
        let copy = driver.copy().clone();
        let seats = (0..2).map(|_| {
            let io = world.io(16);
            let port = io.port();
            Seat { port, reactor: Reactor::new(Box::new(io)).unwrap(), root: Some(Root::new(&filter)) }
        });
        let seats = seats.collect();
        Self { world, graph, copy, past, seats, _images: images }
    }

    pub fn root(&self, seat: usize) -> Rc<Root> {
        self.seats[seat].root.clone().expect("guests are there")
    }

    pub fn io(&self, seat: usize) -> Handle {
        self.seats[seat].reactor.handle().clone()
    }

    /// The guests go, and so do their doors.
    pub fn guests_leave(&mut self) {
        self.seats.iter_mut().for_each(|seat| seat.root = None);
    }

    /// A guest's request.
    pub fn begin(&self, seat: usize, request: Request) -> Slot {
        let (root, io) = (self.root(seat), self.io(seat));
        self.spawn(seat, async move { root.handle(&io, request).await })
    }

    /// A read of the past.
    pub fn begin_read(&self, seat: usize, offset: u64, len: usize) -> Slot {
        let (past, io) = (self.past.clone(), self.io(seat));
        self.spawn(seat, async move { past.handle(&io, read(offset, len)).await })
    }

    pub fn spawn(&self, seat: usize, task: impl Future<Output = Outcome> + 'static) -> Slot {
        let slot = Slot::default();
        let result = slot.clone();
        self.io(seat).spawn(async move { *result.borrow_mut() = Some(task.await) });
        slot
    }

    /// Steps everybody once, or lets time pass; false if nothing will ever happen.
    pub fn step(&mut self) -> bool {
        let mut stepped = false;
        for Seat { port, reactor, .. } in &mut self.seats {
            if self.world.is_awake(*port) || reactor.has_ready_tasks() {
                reactor.turn(Wait::Forever, || false, |_| ());
                stepped = true;
            }
        }
        stepped || self.world.advance()
    }

    pub fn finish(&mut self, slots: &[&Slot]) {
        while slots.iter().any(|slot| slot.borrow().is_none()) {
            assert!(self.step(), "everybody sleeps");
        }
    }

    /// Lets everything happen that happens before the clock shows `time`.
    pub fn run_until(&mut self, time: u64) {
        let io = self.io(0);
        let clock = self.spawn(0, async move {
            io.sleep_until(time).await;
            (Memory::empty(), Ok(()))
        });
        self.finish(&[&clock]);
    }

    pub fn run(&mut self, request: Request) -> Result<(), IoError> {
        let slot = self.begin(0, request);
        self.finish(&[&slot]);
        slot.take().unwrap().1
    }

    pub fn write(&mut self, offset: u64, len: u64) -> Result<(), IoError> {
        self.run(write(offset, len))
    }

    /// Reads the past.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
        let slot = self.begin_read(1, offset, len);
        self.finish(&[&slot]);
        result(&slot)
    }

    pub fn file(&self, name: &str) -> FileId {
        file_of(&self.graph.find(name).unwrap()).expect("a file")
    }

    pub fn source(&self) -> Vec<u8> {
        self.world.content(self.file("d"))
    }

    pub fn target(&self) -> Vec<u8> {
        self.world.content(self.file("file"))
    }

    pub fn break_target(&self, faults: Faults) {
        self.world.set_faults_of(self.file("file"), faults);
    }

    pub fn close(&self, name: &str) -> Result<(), GraphError> {
        self.graph.close(name)
    }
}

/// What a finished read has read.
pub fn result(slot: &Slot) -> Result<Vec<u8>, IoError> {
    let (memory, result) = slot.take().expect("it has ended");
    result.map(|()| memory.into_buf().unwrap().as_slice().to_vec())
}

pub fn write(offset: u64, len: u64) -> Request {
    let mut buf = Buf::new(usize::try_from(len).unwrap());
    buf.as_mut_slice().fill(NEW);
    Request { kind: Kind::Write, fua: false, offset, len, memory: Memory::from(buf) }
}

pub fn read(offset: u64, len: usize) -> Request {
    Request { kind: Kind::Read, fua: false, offset, len: len as u64, memory: Memory::from(Buf::new(len)) }
}

pub fn bare(kind: Kind, offset: u64, len: u64) -> Request {
    Request { kind, fua: false, offset, len, memory: Memory::empty() }
}

fn file_of(node: &Arc<Node>) -> Option<FileId> {
    match node.map(&read(0, 512)) {
        Map::File { file, .. } => Some(file),
        _ => None,
    }
}

fn named(name: &str, discard: Discard, driver: DriverOptions) -> NodeOptions {
    NodeOptions { node_name: Some(name.into()), discard, ..NodeOptions::new(driver) }
}

fn storage(name: &str, path: &Path, null: Option<u64>) -> NodeOptions {
    let file = || FileOptions { filename: path.to_owned(), locking: Locking::Auto, device: false };
    let driver = match null {
        Some(size) => DriverOptions::Null(NullOptions { size, read_zeroes: true, latency_ns: 0 }),
        None => DriverOptions::File(file()),
    };
    named(name, Discard::Unmap, driver)
}

fn slow(name: &str, child: &str, delay: Delays) -> NodeOptions {
    let (image, inject_error, set_state) = (ChildRef::Name(child.into()), Vec::new(), Vec::new());
    let options = BlkDebugOptions { image, align: 0, config: None, inject_error, set_state, delay };
    named(name, Discard::Unmap, DriverOptions::BlkDebug(options))
}

fn filter(setup: &Setup, bitmap: Option<(String, String)>) -> NodeOptions {
    let [file, target] = ["d", "t"].map(|name| ChildRef::Name(name.into()));
    let options = CopyBeforeWriteOptions { file, target, bitmap, copying: setup.options };
    named("cbw", setup.discard, DriverOptions::CopyBeforeWrite(options))
}

/// A bitmap of the disk that marks these ranges: its node and name.
fn mark(graph: &Graph, block: u64, ranges: &[(u64, u64)]) -> (String, String) {
    let disk = graph.find("d").unwrap();
    let mut stage = Stage::new();
    stage.add(&disk, "kept", Some(block), false, true).unwrap();
    stage.prepare().unwrap();
    Committed::settle(stage.commit());
    let bitmap = disk.points().tracking().content("kept").unwrap();
    ranges.iter().for_each(|(offset, len)| bitmap.mark(*offset, *len));
    ("d".into(), "kept".into())
}
