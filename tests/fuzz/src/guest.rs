//! A guest with two queues, and an image on the simulated kernel.

use crate::bytes::Bytes;
use crate::seeds::DISK;
use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use tempfile::NamedTempFile;
use tidemark_backend::error::IoError;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::sim::{PortId, World};
use tidemark_backend::io::{Buf, FileId, Memory, Wait};
use tidemark_backend::node::options::{Discard, DriverOptions, FileOptions, Locking};
use tidemark_backend::node::qcow2::image::Image;
use tidemark_backend::node::qcow2::open::{Files, OpenError, Options, read_header};
use tidemark_backend::node::{Driver, Kind, Node, NodeOptions, Outcome, Request, Root};
use tidemark_backend::reactor::{Handle, Reactor};

/// What the guest writes.
pub const WRITTEN: u8 = 0xa5;

/// Steps of the simulated machine after which something hangs.
const PATIENCE: usize = 200_000;

/// Requests under way at most.
const AT_ONCE: usize = 3;

type Slot<T> = Rc<RefCell<Option<T>>>;

/// The guest and its machine.
pub struct Guest {
    world: World,
    reactors: Vec<(PortId, Reactor)>,
    roots: Vec<Rc<Root>>,
    node: Arc<Node>,
    under_way: Vec<Slot<Outcome>>,
    _file: NamedTempFile,
}

fn options(name: &str, file: &NamedTempFile) -> NodeOptions {
    let file = FileOptions { filename: file.path().to_owned(), locking: Locking::Off, device: false };
    let options = NodeOptions::new(DriverOptions::File(file));
    NodeOptions { node_name: Some(name.to_owned()), discard: Discard::Unmap, ..options }
}

impl Guest {
    /// Opens the image; `None` if it is refused. Bits of `how`: to be read only; discards are passed on.
    pub fn open(content: &[u8], how: u8) -> Option<Self> {
        let mut file = NamedTempFile::new_in("/dev/shm").expect("a file");
        file.write_all(content).expect("a file");
        let (world, graph) = (World::new(1), Graph::new());
        world.add_disk(FileId(0), content.to_vec(), 1);
        let below = graph.open(&options("file", &file)).expect("a file opens");
        let mut reactors = Vec::new();
        for _ in 0..2 {
            let io = world.io(16);
            reactors.push((io.port(), Reactor::new(Box::new(io)).expect("a reactor")));
        }
        let settings = Options {
            read_only: how & 1 != 0,
            l2_cache_bytes: 0,
            refcount_cache_bytes: 0,
            pass_discard: how & 2 != 0,
            journal: None,
            changes: None,
        };
        let opened = run(&world, &mut reactors, move |io| async move {
            let header = read_header(&io, &below).await?;
            let files = Files { file: below, data: None, backing: None };
            let image = Image::open(&io, &header, files, &settings).await?;
            Ok::<_, OpenError>((image.length(), image))
        });
        let (length, image) = opened.ok()?;
        let read_only = NodeOptions { read_only: (how & 1 != 0).into(), ..options("image", &file) };
        let node = Node::simulated(&read_only, Driver::Qcow2(Box::new(image)), length);
        let roots = reactors.iter().map(|_| Root::new(&node)).collect();
        Some(Self { world, reactors, roots, node, under_way: Vec::new(), _file: file })
    }

    /// Begins a request that the input describes.
    pub fn request(&mut self, input: &mut Bytes<'_>) {
        let kind = match input.byte() % 8 {
            0 | 1 => Kind::Read,
            2..=4 => Kind::Write,
            5 => Kind::Zero { unmap: input.byte().is_multiple_of(2) },
            6 => Kind::Discard,
            _ => Kind::Flush,
        };
        let length = self.node.length().min(DISK);
        let offset = input.below(DISK / 512) * 512;
        let len = (1 + input.below(64)) * 512;
        if kind != Kind::Flush && offset + len > length {
            return;
        }
        self.begin(kind, offset, len, WRITTEN);
        while self.under_way.len() >= AT_ONCE || (input.byte().is_multiple_of(2) && !self.under_way.is_empty()) {
            self.wait();
        }
    }

    /// Runs a request; whether it ended well.
    pub fn run(&mut self, kind: Kind, offset: u64, len: u64, byte: u8) -> bool {
        let slot = self.begin(kind, offset, len, byte);
        self.wait();
        slot.borrow().as_ref().is_some_and(|(_, result)| result.is_ok())
    }

    fn begin(&mut self, kind: Kind, offset: u64, len: u64, byte: u8) -> Slot<Outcome> {
        let (offset, len) = if kind == Kind::Flush { (0, 0) } else { (offset, len) };
        let memory = match kind {
            Kind::Read | Kind::Write => {
                let mut buf = Buf::new(usize::try_from(len).expect("a small request"));
                buf.as_mut_slice().fill(byte);
                Memory::from(buf)
            }
            _ => Memory::empty(),
        };
        let request = Request { kind, fua: false, offset, len, memory };
        let slot = Slot::default();
        let queue = self.under_way.len() % 2;
        let (root, result) = (self.roots[queue].clone(), slot.clone());
        let io = self.reactors[queue].1.handle().clone();
        self.reactors[queue].1.handle().spawn(async move {
            let outcome = root.through_queue(&io, request).await;
            *result.borrow_mut() = Some(outcome);
        });
        self.under_way.push(slot.clone());
        slot
    }

    /// Waits for all that is under way.
    fn wait(&mut self) {
        let mut steps = 0;
        while self.under_way.iter().any(|slot| slot.borrow().is_none()) {
            let stepped = step(&self.world, &mut self.reactors);
            steps += 1;
            assert!(stepped || self.under_way.iter().all(|slot| slot.borrow().is_some()), "everybody sleeps");
            assert!(steps < PATIENCE, "a request does not end");
        }
        self.under_way.clear();
    }

    /// Closes the image in order.
    pub fn close(&mut self) {
        self.wait();
        self.roots.clear();
        let node = self.node.clone();
        let _ = run(&self.world, &mut self.reactors, |io| async move {
            match node.driver() {
                Driver::Qcow2(image) => image.close(&io, node.points()).await,
                _ => Err(IoError::Io),
            }
        });
    }

    /// The file as it is.
    pub fn image(&self) -> Vec<u8> {
        self.world.content(FileId(0))
    }
}

/// One step of whoever is awake; false if all sleep for ever.
fn step(world: &World, reactors: &mut [(PortId, Reactor)]) -> bool {
    let mut stepped = false;
    for (port, reactor) in reactors {
        if world.is_awake(*port) || reactor.has_ready_tasks() {
            reactor.turn(Wait::Forever, || false, |_| ());
            stepped = true;
        }
    }
    stepped || world.advance()
}

/// Runs a task of the first reactor to its end.
fn run<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    reactors: &mut [(PortId, Reactor)],
    task: impl FnOnce(Handle) -> F,
) -> T {
    let slot = Slot::default();
    let (future, result) = (task(reactors[0].1.handle().clone()), slot.clone());
    reactors[0].1.handle().spawn(async move {
        let value = future.await;
        *result.borrow_mut() = Some(value);
    });
    for _ in 0..PATIENCE {
        if let Some(value) = slot.take() {
            return value;
        }
        assert!(step(world, reactors) || slot.borrow().is_some(), "everybody sleeps");
    }
    panic!("a task does not end")
}
