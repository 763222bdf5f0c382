//! A machine for tests: a disk with an image made by `qemu-img`, and reactors to run what waits.

use super::counts::{geometry, number};
use crate::error::IoError;
use crate::graph::Graph;
use crate::io::sim::{Faults, PortId, World};
use crate::io::{FileId, Wait};
use crate::node::options::{DriverOptions, FileOptions, Locking};
use crate::node::qcow2::refcount::Refcounts;
use crate::node::qcow2::store::Store;
use crate::node::{Node, NodeOptions};
use crate::reactor::{Handle, Reactor};
use std::cell::RefCell;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// The disk.
const DISK: FileId = FileId(0);

/// Two reactors and one disk.
pub struct Machine {
    pub world: World,
    pub node: Arc<Node>,
    /// Of the image as it was at first.
    pub header: Vec<u8>,
    reactors: Vec<(PortId, Reactor)>,
}

/// The result of a task, when it has one.
pub type Slot<T> = Rc<RefCell<Option<T>>>;

impl Machine {
    pub fn new(seed: u64, content: Vec<u8>) -> Self {
        // The node's length comes from a real file.
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(content.len() as u64).unwrap();
        let world = World::new(seed);
        let header = content[..112].to_vec();
        world.add_disk(DISK, content, 1);
        let reactor = |_| {
            let io = world.io(16);
            (io.port(), Reactor::new(Box::new(io)).unwrap())
        };
        let reactors = (0..2).map(reactor).collect();
        let file = FileOptions { filename: image.path().to_owned(), locking: Locking::Off, device: false };
        let options = NodeOptions { node_name: Some("file".into()), ..NodeOptions::new(DriverOptions::File(file)) };
        let node = Graph::new().open(&options).unwrap();
        Self { world, node, header, reactors }
    }

    pub fn store(&self) -> Store {
        Store::new(self.node.clone())
    }

    /// Starts a task on one of the reactors.
    pub fn begin<T: 'static>(
        &self,
        reactor: usize,
        task: impl FnOnce(Handle) -> Pin<Box<dyn Future<Output = T>>>,
    ) -> Slot<T> {
        let slot = Slot::default();
        let (handle, result) = (self.reactors[reactor].1.handle(), slot.clone());
        let task = task(handle.clone());
        handle.spawn(async move {
            let value = task.await;
            *result.borrow_mut() = Some(value);
        });
        slot
    }

    /// Lets time pass until there is a result.
    pub fn finish<T>(&mut self, slot: &Slot<T>) -> T {
        while slot.borrow().is_none() {
            assert!(self.step(), "everybody sleeps");
        }
        slot.take().unwrap()
    }

    /// Lets time pass until something has happened; false if nothing will.
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

    /// Runs one task.
    pub fn run<T: 'static>(&mut self, task: impl FnOnce(Handle) -> Pin<Box<dyn Future<Output = T>>>) -> T {
        let slot = self.begin(0, task);
        self.finish(&slot)
    }

    /// The reference counts of the image on the disk.
    pub fn open(&mut self) -> Arc<Refcounts> {
        let (store, content) = (self.store(), self.content());
        let geometry = geometry(&content);
        let (offset, clusters) = (number(&content, 48, 8), u32::try_from(number(&content, 56, 4)).unwrap());
        let open = |io: Handle| async move { Refcounts::open(&io, store, geometry, offset, clusters).await };
        Arc::new(self.run(|io| Box::pin(open(io))).unwrap())
    }

    /// Writes everything back and makes it stable.
    pub fn flush(&mut self, refcounts: &Arc<Refcounts>) -> Result<(), IoError> {
        let (refcounts, store) = (refcounts.clone(), self.store());
        self.run(|io| {
            Box::pin(async move {
                refcounts.write_back(&io).await?;
                store.flush(&io).await
            })
        })
    }

    pub fn content(&self) -> Vec<u8> {
        self.world.content(DISK)
    }

    pub fn set_faults(&self, faults: Faults) {
        self.world.set_faults(faults);
    }

    /// Cuts the power; what is left on the disk.
    pub fn cut_power(mut self) -> Vec<u8> {
        self.reactors.clear();
        self.world.crash();
        self.content()
    }
}

/// An image as `qemu-img create` makes it.
pub fn image(options: &str, size: &str) -> Vec<u8> {
    let file = NamedTempFile::new().unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", options], file.path(), &[size]);
    // To whole clusters, as a file is from its first growth on.
    let mut content = std::fs::read(file.path()).unwrap();
    let cluster = 1 << number(&content, 20, 4);
    content.resize(content.len().next_multiple_of(cluster), 0);
    content
}

/// Runs `qemu-img` on a file; its output.
pub fn qemu_img(before: &[&str], path: &Path, after: &[&str]) -> String {
    let output = Command::new("qemu-img").args(before).arg(path).args(after).output().expect("qemu-img is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{before:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// What `qemu-img check` says of an image whose clusters are all leaked or metadata: how many leak.
pub fn leaks(content: &[u8]) -> u64 {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let output = Command::new("qemu-img").args(["check", "--output", "json"]).arg(file.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let count = |name: &str| {
        let (_, after) = text.split_once(&format!("\"{name}\": "))?;
        after.split([',', '\n']).next()?.parse::<u64>().ok()
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((count("check-errors"), count("corruptions")), (Some(0), None), "{text}{errors}");
    count("leaks").unwrap_or(0)
}
