//! The process of a run: two disks with their queues, what backups are made onto, a reader of the past, and the job
//! engine, all on reactors of one simulated machine.

use super::setting::{DISKS, DiskSetting, Setting, Stack};
use crate::oracle::{Tag, content};
use crate::process::file_of;
use crate::scenario::Scenario;
use crate::served::Served;
use std::sync::{Arc, Mutex};
use tempfile::NamedTempFile;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::FileId;
use tidemark_backend::io::sim::{PortId, World};
use tidemark_backend::node::copy_before_write::CbwOptions;
use tidemark_backend::node::options::{
    BlkDebugOptions, ChildRef, CopyBeforeWriteOptions, Delays, DetectZeroes, Discard, DriverOptions, FileOptions,
    Locking, RawOptions,
};
use tidemark_backend::node::{Node, NodeOptions};
use tidemark_backend::reactor::Reactor;
use tidemark_jobs::{Engine, EngineHandle, JobEvent};

/// What stands in a target before a backup: nobody ever writes that.
pub const GARBAGE: u8 = 0x5a;
/// Targets of each disk.
pub const TARGETS: usize = 3;

/// A node, and where in it the disk begins.
#[derive(Clone, Debug)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Bytes before the disk.
    pub shift: u64,
}

/// Something to make backups onto.
pub struct Target {
    /// Its node.
    pub name: String,
    /// Its content.
    pub file: FileId,
    /// A backup uses it.
    pub taken: bool,
}

/// One disk.
pub struct Disk {
    /// What its guest uses.
    pub served: Served,
    /// What it held at the beginning, by sector.
    pub initial: Vec<Tag>,
    /// What is backed up.
    pub source: Place,
    /// Where bitmaps are looked at.
    pub watched: Place,
    /// What to make backups onto.
    pub targets: Vec<Target>,
    /// Who reads what the disk held at the beginning.
    pub reader: Option<Served>,
}

/// The process.
pub struct Site {
    /// Its nodes.
    pub graph: Arc<Graph>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its jobs.
    pub engine: Engine,
    /// The engine's reactor's place in the machine.
    pub port: PortId,
    /// The way to the engine.
    pub jobs: EngineHandle,
    /// What jobs have told.
    pub events: Arc<Mutex<Vec<JobEvent>>>,
    _images: Vec<NamedTempFile>,
}

impl Site {
    /// A process that has just started, with guests that have just booted.
    pub fn new(world: &World, setting: &Setting, random: &mut fastrand::Rng) -> Self {
        let mut builder = Builder { world, setting, graph: Graph::new(), images: Vec::new() };
        let disks = (0..DISKS).map(|index| builder.disk(index, random)).collect();
        world.set_faults(setting.queues.faults);
        let events: Arc<Mutex<Vec<JobEvent>>> = Arc::default();
        let sink = events.clone();
        let io = world.io(setting.queues.capacity);
        let port = io.port();
        let engine =
            Engine::new(Reactor::new(Box::new(io)).unwrap(), Arc::new(move |event| sink.lock().unwrap().push(event)));
        let jobs = engine.handle();
        Self { graph: builder.graph, disks, engine, port, jobs, events, _images: builder.images }
    }
}

struct Builder<'a> {
    world: &'a World,
    setting: &'a Setting,
    graph: Arc<Graph>,
    images: Vec<NamedTempFile>,
}

impl Builder<'_> {
    fn disk(&mut self, index: usize, random: &mut fastrand::Rng) -> Disk {
        let setting = &self.setting.disks[index];
        let initial = initial(setting.sectors, random);
        let mut bytes = vec![0; usize::try_from(setting.window()).unwrap()];
        bytes.extend(initial.iter().enumerate().flat_map(|(sector, tag)| content(sector, 1, *tag)));
        let file = self.file(&format!("file{index}"), setting.image_len());
        self.world.add_disk(file_of(&file), bytes, 1);
        let top = self.top(index, setting).unwrap_or_else(|| file.clone());
        let place = |is_top: bool| match is_top {
            true => Place { node: top.name().to_owned(), shift: 0 },
            false => Place { node: file.name().to_owned(), shift: setting.window() },
        };
        let source = place(setting.backs_up_top);
        let len = self.graph.find(&source.node).unwrap().length();
        let targets = (0..TARGETS).map(|at| self.target(&format!("target{index}-{at}"), len)).collect();
        Disk {
            served: Served::new(self.world, &self.setting.queues, &self.graph, &top),
            initial,
            source,
            watched: place(setting.watches_top),
            targets,
            reader: self.reader(index, setting),
        }
    }

    fn target(&mut self, name: &str, len: u64) -> Target {
        let file = file_of(&self.file(name, len));
        self.world.add_disk(file, vec![GARBAGE; usize::try_from(len).unwrap()], 1);
        self.world.set_faults_of(file, self.setting.target_faults);
        Target { name: name.to_owned(), file, taken: false }
    }

    /// Who reads the past of a disk that keeps it.
    fn reader(&self, index: usize, setting: &DiskSetting) -> Option<Served> {
        let Stack::Filter { .. } = setting.stack else { return None };
        let driver = DriverOptions::SnapshotAccess(ChildRef::Name(format!("top{index}")));
        let node = self.graph.open(&self.options(&format!("past{index}"), driver)).unwrap();
        let queues = Scenario { queues: 1, ..self.setting.queues.clone() };
        Some(Served::new(self.world, &queues, &self.graph, &node))
    }

    fn file(&mut self, name: &str, len: u64) -> Arc<Node> {
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(len).unwrap();
        let file = FileOptions { filename: image.path().to_owned(), locking: Locking::Off, device: false };
        self.images.push(image);
        self.graph.open(&self.options(name, DriverOptions::File(file))).unwrap()
    }

    /// The node above the file, if there is one.
    fn top(&mut self, index: usize, setting: &DiskSetting) -> Option<Arc<Node>> {
        let child = ChildRef::Name(format!("file{index}"));
        let driver = match setting.stack {
            Stack::File => return None,
            Stack::Raw => DriverOptions::Raw(RawOptions {
                file: child,
                offset: setting.window(),
                size: None,
                guard_format: false,
            }),
            Stack::BlkDebug => DriverOptions::BlkDebug(BlkDebugOptions {
                image: child,
                align: 0,
                config: None,
                inject_error: Vec::new(),
                set_state: Vec::new(),
                delay: Delays { read: 30_000, write: 10_000, write_zeroes: 0, discard: 5_000, flush: 90_000 },
            }),
            Stack::Filter { on_error, timeout_ns } => {
                let target = self.target(&format!("kept{index}"), setting.image_len()).name;
                let copying = CbwOptions { on_error, timeout_ns, min_chunk: 0 };
                let target = ChildRef::Name(target);
                DriverOptions::CopyBeforeWrite(CopyBeforeWriteOptions { file: child, target, bitmap: None, copying })
            }
        };
        let options = self.options(&format!("top{index}"), driver);
        Some(self.graph.open(&options).unwrap())
    }

    fn options(&self, name: &str, driver: DriverOptions) -> NodeOptions {
        let queues = &self.setting.queues;
        let detects = queues.detect_zeroes && !matches!(driver, DriverOptions::File(_));
        NodeOptions {
            node_name: Some(name.into()),
            discard: if queues.unmap { Discard::Unmap } else { Discard::Ignore },
            detect_zeroes: if detects { DetectZeroes::Unmap } else { DetectZeroes::Off },
            ..NodeOptions::new(driver)
        }
    }
}

/// What a disk holds at the beginning: some of it zeroes.
pub fn initial(sectors: usize, random: &mut fastrand::Rng) -> Vec<Tag> {
    let mut tags = vec![0; sectors];
    for _ in 0..3 {
        let start = random.usize(0..sectors);
        let end = (start + random.usize(1..=sectors / 2)).min(sectors);
        tags[start..end].fill(1);
    }
    tags
}
