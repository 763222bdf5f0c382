//! The serving process: the real nodes, export and queues, on reactors of the simulated machine. Dropping it is
//! kill -9.

use crate::guest::GuestQueue;
use crate::scenario::{Scenario, Stack};
use std::fs::File as StdFile;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use tidemark_backend::export::vhost::inflight::InflightArea;
use tidemark_backend::export::vhost::memory::{MemTable, MemoryFault, RegionSpec};
use tidemark_backend::export::vhost::queue::{Letter, Queue, RingStart};
use tidemark_backend::export::vhost::ring::{RingConfig, RingError};
use tidemark_backend::export::vhost::{Address, ExportShared, Polling, VhostOptions};
use tidemark_backend::graph::Graph;
use tidemark_backend::io::sim::{PortId, World};
use tidemark_backend::io::{FileId, Workers};
use tidemark_backend::node::options::{
    BlkDebugOptions, ChildRef, Delays, DetectZeroes, Discard, DriverOptions, FileOptions, Locking, RawOptions,
};
use tidemark_backend::node::{Driver, File, Node, NodeOptions, Raw};
use tidemark_backend::reactor::Reactor;
use tidemark_frontend::GuestMemory;

/// What the export answers to GET_ID.
pub const SERIAL: &str = "simulated";

/// A ring of the process, as its session knows it.
pub enum RingState {
    /// Handed over, not yet taken.
    Starting(Receiver<Result<(), RingError>>),
    /// In use.
    Running,
    /// Told to stop.
    Stopping(Receiver<u16>),
    /// Given back with this index.
    Stopped(u16),
}

/// One queue of the process.
pub struct Served {
    /// The queue itself.
    pub queue: Queue,
    /// Its reactor's place in the machine.
    pub port: PortId,
    /// Its ring.
    pub state: RingState,
    /// Whether the ring is enabled.
    pub enabled: bool,
}

/// A serving process.
pub struct Process {
    /// Its queues.
    pub queues: Vec<Served>,
    /// The image file's number.
    pub file: FileId,
    export: Arc<ExportShared>,
    fault: Arc<MemoryFault>,
    area: Option<Arc<InflightArea>>,
}

impl Process {
    /// Opens the image and makes the queues.
    pub fn start(world: &World, scenario: &Scenario, image: &Path, area: Option<&StdFile>) -> Self {
        let graph = Graph::new();
        let node = open(&graph, scenario, image);
        Self::serve(world, scenario, graph, &node, area)
    }

    /// Serves a node of a graph.
    pub fn serve(
        world: &World,
        scenario: &Scenario,
        graph: Arc<Graph>,
        node: &Arc<Node>,
        area: Option<&StdFile>,
    ) -> Self {
        let options = VhostOptions {
            id: "export".into(),
            node: node.clone(),
            writable: true,
            writethrough: false,
            address: Address::Path { path: PathBuf::new(), mode: 0o600, group: None },
            logical_block_size: 512,
            num_queues: scenario.queues,
            serial: Some(SERIAL.into()),
            polling: Polling { max_ns: scenario.poll_ns },
            cpus: Vec::new(),
        };
        let export = ExportShared::new(&options, graph, Workers::new(), Arc::new(|_| ())).unwrap();
        export.wce.store(scenario.write_cache, Ordering::Relaxed);
        let export = Arc::new(export);
        let serve = |index| {
            let io = world.io(scenario.capacity);
            let port = io.port();
            let reactor = Reactor::new(Box::new(io)).unwrap();
            let queue = Queue::new(index, export.clone(), reactor);
            Served { queue, port, state: RingState::Stopped(0), enabled: true }
        };
        let fault = MemoryFault::new().unwrap();
        let (queues, size) = (scenario.queues, scenario.queue_size);
        let len = InflightArea::len_for(queues, size);
        let area = area.map(|file| InflightArea::map(file, 0, len, queues, size, &fault).unwrap());
        Self { queues: (0..queues).map(serve).collect(), file: file_of(node), export, fault, area }
    }

    /// The node that the export's guests come to now.
    pub fn node(&self) -> Arc<Node> {
        self.export.door.node()
    }

    /// The guest's memory, mapped anew.
    pub fn map(&self, memory: &GuestMemory) -> Arc<MemTable> {
        let region = |region: &Arc<tidemark_frontend::Region>| {
            let spec = region.spec();
            let user_addr = region.user_addr(spec.addr).unwrap();
            let spec = RegionSpec { guest_addr: spec.addr, len: spec.len, user_addr, file_offset: 0 };
            (spec, region.file().unwrap().try_clone().unwrap())
        };
        Arc::new(MemTable::new(memory.regions().iter().map(region), self.fault.clone()).unwrap())
    }

    /// Hands a ring to queue `index`.
    pub fn start_ring(
        &mut self,
        index: usize,
        scenario: &Scenario,
        guest: &GuestQueue,
        memory: &GuestMemory,
        next_avail: u16,
    ) {
        let table = self.map(memory);
        let layout = guest.layout();
        let user = |addr| memory.region(addr, 1).unwrap().user_addr(addr).unwrap();
        let bit = |set: bool, bit: u32| u64::from(set) << bit;
        let features = bit(scenario.event_idx, 29) | bit(scenario.indirect, 28) | bit(true, 32);
        let config = RingConfig {
            size: layout.size,
            desc: user(layout.desc),
            avail: user(layout.avail),
            used: user(layout.used),
            next_avail,
            features,
        };
        let number = u16::try_from(index).unwrap();
        let start = RingStart {
            config,
            memory: table,
            kick: (!scenario.without_kicks).then(|| guest.kick.clone()),
            call: Some(guest.call.clone()),
            err: Some(guest.error.clone()),
            inflight: self.area.as_ref().map(|area| area.region(number).unwrap()),
            enabled: true,
        };
        let (reply, answer) = channel();
        let served = &mut self.queues[index];
        served.enabled = true;
        served.state = RingState::Starting(answer);
        served.queue.mail().send(Letter::Start(Box::new(start), reply));
    }
}

/// The node the export serves.
fn open(graph: &Arc<Graph>, scenario: &Scenario, image: &Path) -> Arc<Node> {
    let file = file_options(scenario, image);
    let raw = RawOptions {
        file: ChildRef::Inline(Box::new(file.clone())),
        offset: scenario.window(),
        size: None,
        guard_format: false,
    };
    match scenario.stack {
        Stack::File => graph.open(&file).unwrap(),
        Stack::Raw => graph.open(&options(scenario, "raw", DriverOptions::Raw(raw))).unwrap(),
        Stack::BlkDebug => {
            let delay = Delays { read: 30_000, write: 10_000, write_zeroes: 0, discard: 5_000, flush: 90_000 };
            let filter = BlkDebugOptions {
                image: ChildRef::Inline(Box::new(file)),
                align: 0,
                config: None,
                inject_error: Vec::new(),
                set_state: Vec::new(),
                delay,
            };
            graph.open(&options(scenario, "blkdebug", DriverOptions::BlkDebug(filter))).unwrap()
        }
        Stack::Direct | Stack::RawOverDirect => {
            let DriverOptions::File(how) = &file.driver else { unreachable!("made above") };
            let (opened, length) = File::open(&file, how, graph.files()).unwrap();
            let child = Node::simulated(&file, Driver::File(opened.with_direct_alignment(4096)), length);
            if scenario.stack == Stack::Direct {
                return child;
            }
            let (window, length) = Raw::new(child, &raw).unwrap();
            Node::simulated(&options(scenario, "raw", DriverOptions::Raw(raw)), Driver::Raw(window), length)
        }
    }
}

fn file_options(scenario: &Scenario, image: &Path) -> NodeOptions {
    let file = FileOptions { filename: image.to_owned(), locking: Locking::Off, device: false };
    let detect_zeroes = DetectZeroes::Off;
    NodeOptions { detect_zeroes, ..options(scenario, "file", DriverOptions::File(file)) }
}

fn options(scenario: &Scenario, name: &str, driver: DriverOptions) -> NodeOptions {
    NodeOptions {
        node_name: Some(name.into()),
        discard: if scenario.unmap { Discard::Unmap } else { Discard::Ignore },
        detect_zeroes: if scenario.detect_zeroes { DetectZeroes::Unmap } else { DetectZeroes::Off },
        ..NodeOptions::new(driver)
    }
}

/// The file a node keeps its content in.
pub fn file_of(node: &Node) -> FileId {
    match (node.driver(), node.child()) {
        (Driver::File(file), _) => file.id(),
        (_, Some(child)) => file_of(&child),
        (_, None) => unreachable!("every stack ends in a file"),
    }
}
