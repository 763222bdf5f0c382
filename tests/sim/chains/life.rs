//! One process: the nodes of all chains, the exports with their guests, and the job engine, on reactors of one machine.

use super::images::{Image, Opened};
use super::setting::{DiskSetting, Setting};
use crate::served::Served;
use std::sync::{Arc, Mutex};
use tidemark_backend::graph::Graph;
use tidemark_backend::io::sim::{PortId, World};
use tidemark_backend::node::options::{ChildRef, DriverOptions, RawOptions};
use tidemark_backend::node::{Node, NodeOptions};
use tidemark_backend::reactor::Reactor;
use tidemark_jobs::{Engine, EngineHandle, JobEvent};

/// The images of one disk.
pub struct Disk {
    /// All there are, in no order.
    pub images: Vec<Image>,
    /// Those that are the disk, the bottom first.
    pub chain: Vec<usize>,
    /// Those that are about to be put on top, as far as is known, the lowest first.
    pub coming: Vec<usize>,
    /// Those that may be the disk already instead.
    pub other: Option<Vec<usize>>,
}

impl Disk {
    /// The images that are the disk, whatever becomes of what is under way: these, or if there are others, those.
    pub fn candidates(&self) -> Vec<Vec<usize>> {
        let now = self.chain.iter().chain(&self.coming).copied().collect();
        std::iter::once(now).chain(self.other.clone()).collect()
    }

    /// The image on top.
    pub fn top(&self) -> &Image {
        &self.images[*self.chain.last().expect("a disk has images")]
    }
}

/// A process.
pub struct Life {
    /// Its machine.
    pub world: World,
    /// Its nodes.
    pub graph: Arc<Graph>,
    /// Its exports, by disk.
    pub served: Vec<Served>,
    /// Its jobs.
    pub engine: Engine,
    /// The engine's reactor's place in the machine.
    pub port: PortId,
    /// The way to the engine.
    pub jobs: EngineHandle,
    /// What jobs have told.
    pub events: Arc<Mutex<Vec<JobEvent>>>,
    /// What backups are made onto.
    pub targets: Vec<Image>,
}

impl Life {
    /// A process that has opened these disks, with guests that have just booted.
    pub fn new(world: World, setting: &Setting, disks: &mut [Disk]) -> Result<Self, String> {
        let graph = Graph::new();
        let mut served = Vec::new();
        for (number, disk) in disks.iter_mut().enumerate() {
            let top = open_chain(&world, &graph, setting, disk)?;
            let node = match setting.disks[number].raw_above {
                true => above(&graph, number, &top),
                false => top,
            };
            served.push(Served::new(&world, &setting.queues, &graph, &node));
        }
        world.set_faults(setting.queues.faults);
        let events: Arc<Mutex<Vec<JobEvent>>> = Arc::default();
        let sink = events.clone();
        let io = world.io(setting.queues.capacity);
        let port = io.port();
        let engine =
            Engine::new(Reactor::new(Box::new(io)).unwrap(), Arc::new(move |event| sink.lock().unwrap().push(event)));
        let jobs = engine.handle();
        Ok(Self { world, graph, served, engine, port, jobs, events, targets: Vec::new() })
    }
}

/// How images are opened that guests write to.
pub fn writable(setting: &Setting) -> Opened {
    let (unmap, detect_zeroes) = (setting.queues.unmap, setting.queues.detect_zeroes);
    Opened { unmap, detect_zeroes, read_only: false }
}

fn open_chain(world: &World, graph: &Arc<Graph>, setting: &Setting, disk: &mut Disk) -> Result<Arc<Node>, String> {
    let mut below: Option<Arc<Node>> = None;
    for (height, at) in disk.chain.iter().enumerate() {
        let opened = Opened { read_only: height + 1 < disk.chain.len(), ..writable(setting) };
        let (image, name) = (&mut disk.images[*at], below.as_ref().map(|node| node.name()));
        let node = image.open(world, graph, name, opened);
        below = Some(node.map_err(|error| format!("{} cannot be opened: {error}", image.name))?);
    }
    below.ok_or_else(|| "a disk has images".to_owned())
}

/// A node that shows what is below.
fn above(graph: &Arc<Graph>, number: usize, top: &Arc<Node>) -> Arc<Node> {
    let file = ChildRef::Name(top.name().to_owned());
    let raw = DriverOptions::Raw(RawOptions { file, offset: 0, size: None, guard_format: false });
    let name = Some(format!("above{number}"));
    graph.open(&NodeOptions { node_name: name, discard: top.discard(), ..NodeOptions::new(raw) }).unwrap()
}

/// The initial contents of a disk.
pub fn fresh(number: usize, setting: &DiskSetting, bottom: Vec<u8>) -> Disk {
    let name = |height: usize| format!("disk{number}-{height}");
    let image = |(height, format): (usize, &super::images::Format)| match format {
        super::images::Format::Raw => Image::new(name(height), *format, bottom.clone()),
        _ => Image::empty(name(height), *format, setting.sectors),
    };
    let images: Vec<Image> = setting.chain.iter().enumerate().map(image).collect();
    Disk { chain: (0..images.len()).collect(), images, coming: Vec::new(), other: None }
}
