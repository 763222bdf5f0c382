//! An image on the simulated kernel, used by two reactors as two queues use it.

use crate::error::IoError;
use crate::graph::Graph;
use crate::io::sim::{Faults, PortId, World};
use crate::io::{FileId, Wait};
use crate::node::options::{Discard, DriverOptions, FileOptions, Locking};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::open::{Files, OpenError, Options, header_at, read_header};
use crate::node::{Driver, Node, NodeOptions, Outcome, Request, Root};
use crate::reactor::{Handle, Reactor};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// How something has ended; `None` while it has not.
pub type Slot<T> = Rc<RefCell<Option<T>>>;

/// The machine.
pub struct Machine {
    pub world: World,
    reactors: Vec<(PortId, Reactor)>,
    roots: Vec<Rc<Root>>,
    graph: Arc<Graph>,
    files: Vec<NamedTempFile>,
    pub node: Option<Arc<Node>>,
}

impl Machine {
    /// A machine with these files on its disks: the image, and its raw backing file if it has one.
    pub fn new(seed: u64, contents: &[Vec<u8>], alignment: u32) -> Self {
        let (world, graph) = (World::new(seed), Graph::new());
        let mut files = Vec::new();
        for (number, content) in contents.iter().enumerate() {
            let file = NamedTempFile::new().unwrap();
            std::fs::write(file.path(), content).unwrap();
            world.add_disk(FileId(u32::try_from(number).unwrap()), content.clone(), alignment);
            graph.open(&file_options(&format!("file{number}"), file.path())).unwrap();
            files.push(file);
        }
        let reactors = reactors(&world);
        Self { world, reactors, roots: Vec::new(), graph, files, node: None }
    }

    /// Opens the image, over its raw backing file if it has one.
    pub fn open(&mut self, options: Options) -> Result<(), OpenError> {
        self.open_over(None, self.graph.find("file1"), options)
    }

    /// Opens the image over these.
    pub fn open_over(
        &mut self,
        data: Option<Arc<Node>>,
        backing: Option<Arc<Node>>,
        options: Options,
    ) -> Result<(), OpenError> {
        let node = self.open_image(Files { file: self.file(0), data, backing }, options)?;
        self.roots = self.reactors.iter().map(|_| Root::new(&node)).collect();
        self.node = Some(node);
        Ok(())
    }

    /// Opens an image that others are to be over; nothing is written to it.
    pub fn open_below(
        &mut self,
        file: Arc<Node>,
        backing: Option<Arc<Node>>,
        options: Options,
    ) -> Result<Arc<Node>, OpenError> {
        self.open_image(Files { file, data: None, backing }, Options { read_only: true, ..options })
    }

    fn open_image(&mut self, files: Files, options: Options) -> Result<Arc<Node>, OpenError> {
        let image = self.run(move |io| async move {
            let header = read_header(&io, &files.file).await?;
            let image = Image::open(&io, &header, files, &options).await?;
            Ok::<_, OpenError>((header.size, image))
        });
        let (length, image) = image?;
        let options = NodeOptions { discard: Discard::Unmap, ..file_options("image", self.files[0].path()) };
        Ok(Node::simulated(&options, Driver::Qcow2(Box::new(image)), length))
    }

    /// The file of this number.
    pub fn file(&self, number: usize) -> Arc<Node> {
        self.graph.find(&format!("file{number}")).unwrap()
    }

    /// The disk as it was at a snapshot of the first file, as whoever reads it finds it.
    pub fn content_at(&mut self, snapshot: &str) -> Vec<u8> {
        let (file, snapshot) = (self.file(0), snapshot.to_owned());
        self.run(move |io| async move {
            let header = read_header(&io, &file).await.unwrap();
            let header = header_at(&io, &file, &header, &snapshot).await.unwrap();
            let options = Options {
                read_only: true,
                l2_cache_bytes: 0,
                refcount_cache_bytes: 0,
                pass_discard: false,
                journal: None,
                changes: None,
            };
            let files = Files { file, data: None, backing: None };
            let image = Image::open(&io, &header, files, &options).await.unwrap();
            image.view().read_bytes(&io, 0, header.size).await.unwrap().as_slice().to_vec()
        })
    }

    /// Closes the image in order.
    pub fn close(&mut self) -> Result<(), IoError> {
        self.roots.clear();
        let Some(node) = self.node.take() else { return Ok(()) };
        self.run(|io| async move {
            let Driver::Qcow2(image) = node.driver() else { unreachable!("made in open") };
            image.close(&io, node.points()).await
        })
    }

    /// Lets storage fail from now on, or no longer.
    pub fn set_faults(&self, faults: Faults) {
        self.world.set_faults(faults);
    }

    /// Starts a request as a queue does.
    pub fn begin(&self, reactor: usize, request: Request) -> Slot<Outcome> {
        let slot = Slot::default();
        let (root, io, result) = (self.roots[reactor].clone(), self.reactors[reactor].1.handle().clone(), slot.clone());
        self.reactors[reactor].1.handle().spawn(async move {
            let outcome = root.through_queue(&io, request).await;
            *result.borrow_mut() = Some(outcome);
        });
        slot
    }

    /// Begins a task of the control plane on the first reactor.
    pub fn begin_task<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        task: impl FnOnce(Handle, Arc<Graph>) -> F,
    ) -> Slot<T> {
        let slot = Slot::default();
        let handle = self.reactors[0].1.handle();
        let (future, result) = (task(handle.clone(), self.graph.clone()), slot.clone());
        handle.spawn(async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        slot
    }

    /// One step of whoever is awake; false if all sleep for ever.
    pub fn step(&mut self) -> bool {
        let mut stepped = false;
        for (port, reactor) in &mut self.reactors {
            if self.world.is_awake(*port) || reactor.has_ready_tasks() {
                reactor.turn(Wait::Forever, || false, |_| ());
                stepped = true;
            }
        }
        stepped || self.world.advance()
    }

    /// Starts a task of the first reactor.
    pub fn start<T: 'static, F: Future<Output = T> + 'static>(&self, task: impl FnOnce(Handle) -> F) -> Slot<T> {
        let slot = Slot::default();
        let (future, result) = (task(self.reactors[0].1.handle().clone()), slot.clone());
        self.reactors[0].1.handle().spawn(async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        slot
    }

    /// Runs one task of the first reactor to its end.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(&mut self, task: impl FnOnce(Handle) -> F) -> T {
        let slot = self.start(task);
        loop {
            if let Some(value) = slot.take() {
                return value;
            }
            assert!(self.step() || slot.borrow().is_some(), "everybody sleeps");
        }
    }

    /// The files as programs see them.
    pub fn contents(&self) -> Vec<Vec<u8>> {
        (0..self.files.len()).map(|number| self.world.content(FileId(u32::try_from(number).unwrap()))).collect()
    }

    /// Kills everybody; the next process finds the files as they are.
    pub fn kill(&mut self) {
        self.roots.clear();
        self.world.kill();
        self.reactors = reactors(&self.world);
        self.node = None;
    }

    /// Starts to open the image, and is killed after some steps; whether it was open by then.
    pub fn open_and_kill(&mut self, options: Options, steps: usize) -> bool {
        let (file, backing, slot) = (self.file(0), self.graph.find("file1"), Slot::default());
        let (io, result) = (self.reactors[0].1.handle().clone(), slot.clone());
        self.reactors[0].1.handle().spawn(async move {
            let header = read_header(&io, &file).await.unwrap();
            let image = Image::open(&io, &header, Files { file, data: None, backing }, &options).await.unwrap();
            *result.borrow_mut() = Some(image);
        });
        for _ in 0..steps {
            self.step();
        }
        let opened = slot.take().is_some();
        self.kill();
        opened
    }

    /// Kills everybody and cuts the power; the files as they are then.
    pub fn cut_power(mut self) -> Vec<Vec<u8>> {
        self.roots.clear();
        self.reactors.clear();
        self.world.crash();
        self.contents()
    }
}

/// Those of a process.
fn reactors(world: &World) -> Vec<(PortId, Reactor)> {
    let reactor = |_| {
        let io = world.io(16);
        (io.port(), Reactor::new(Box::new(io)).unwrap())
    };
    (0..2).map(reactor).collect()
}

fn file_options(name: &str, path: &Path) -> NodeOptions {
    let file = FileOptions { filename: path.to_owned(), locking: Locking::Off, device: false };
    let options = NodeOptions::new(DriverOptions::File(file));
    NodeOptions { node_name: Some(name.into()), discard: Discard::Unmap, ..options }
}
