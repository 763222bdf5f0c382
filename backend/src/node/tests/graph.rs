//! Opening and closing nodes by name, with the texts of QEMU.

use super::bench::{Bench, file_options};
use crate::error::GraphError;
use crate::graph::{Errand, Graph, KernelRing, Runner};
use crate::io::Workers;
use crate::io::lock::Access;
use crate::node::options::{BlkDebugOptions, ChildRef, Delays, DriverOptions, FileOptions, NullOptions, RawOptions};
use crate::node::qcow2::options::Qcow2Options;
use crate::node::{Node, NodeOptions};
use crate::reactor::Handle;
use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

fn null(name: Option<&str>) -> NodeOptions {
    let null = NullOptions { size: 1 << 20, read_zeroes: false, latency_ns: 0 };
    NodeOptions { node_name: name.map(Into::into), ..NodeOptions::new(DriverOptions::Null(null)) }
}

fn over(name: &str, child: ChildRef) -> NodeOptions {
    let raw = RawOptions { file: child, offset: 0, size: None, guard_format: false };
    NodeOptions { node_name: Some(name.into()), ..NodeOptions::new(DriverOptions::Raw(raw)) }
}

#[test]
fn names_are_unique_and_well_formed() {
    let graph = Bench::new(1, &[], 1).graph;
    let refused = |options| graph.open(&options).unwrap_err().to_string();
    graph.open(&null(Some("a"))).unwrap();
    assert_eq!(refused(null(None)), "'node-name' must be specified for the root node");
    assert_eq!(refused(null(Some("a b"))), "Invalid node-name: 'a b'");
    assert_eq!(refused(null(Some(&"a".repeat(32)))), format!("Invalid node-name: '{}'", "a".repeat(32)));
    assert_eq!(refused(null(Some("a"))), "Duplicate nodes with node-name='a'");
    assert_eq!(refused(over("b", ChildRef::Inline(Box::new(null(Some("b")))))), "Duplicate nodes with node-name='b'");
    assert_eq!(refused(over("b", ChildRef::Name("c".into()))), "Cannot find device='c' nor node-name='c'");
    assert_eq!(graph.nodes().len(), 1);
}

/// Before each task of the control plane, somebody else looks for a node.
struct Asked {
    graph: Arc<Graph>,
    answers: RefCell<Vec<bool>>,
}

impl Runner for Asked {
    fn run(&self, errand: Errand) -> Result<(), GraphError> {
        let (graph, (answer, answered)) = (self.graph.clone(), channel());
        std::thread::spawn(move || answer.send(graph.find("other").is_some() && !graph.nodes().is_empty()));
        let found = answered.recv_timeout(Duration::from_secs(60)).expect("an answer while files are read");
        self.answers.borrow_mut().push(found);
        KernelRing::new(self.graph.files().clone(), Workers::new()).run(errand)
    }
}

/// An empty image, as node `image`.
fn image(directory: &Path) -> NodeOptions {
    let path = directory.join("image");
    let create = ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "1M"];
    assert!(Command::new("qemu-img").args(create).status().unwrap().success());
    let qcow2 = Qcow2Options::new(ChildRef::Inline(Box::new(file_options(&path))));
    NodeOptions { node_name: Some("image".into()), ..NodeOptions::new(DriverOptions::Qcow2(Box::new(qcow2))) }
}

#[test]
fn nodes_are_found_while_an_image_is_opened_and_closed() {
    let directory = tempfile::tempdir().unwrap();
    let graph = Graph::new();
    graph.open(&null(Some("other"))).unwrap();
    let asked = Asked { graph: graph.clone(), answers: RefCell::default() };
    graph.open_on(&asked, &image(directory.path())).unwrap();
    let opened = asked.answers.borrow().len();
    assert!(opened > 0 && graph.nodes().len() == 3);
    graph.close_on(&asked, "image").unwrap();
    let answers = asked.answers.borrow();
    assert!(answers.len() > opened && answers.iter().all(|found| *found), "{answers:?}");
    assert_eq!(graph.nodes().len(), 1);
}

/// Before each task of the control plane, somebody who knows a node takes it into use.
struct Taken {
    graph: Arc<Graph>,
    node: Arc<Node>,
    answers: RefCell<Vec<String>>,
}

impl Runner for Taken {
    fn run(&self, errand: Errand) -> Result<(), GraphError> {
        let answer = self.node.acquire_for(Access::Read).map_or_else(|error| error.to_string(), |()| "taken".into());
        self.answers.borrow_mut().push(answer);
        KernelRing::new(self.graph.files().clone(), Workers::new()).run(errand)
    }
}

#[test]
fn a_node_that_is_being_closed_is_taken_into_use_by_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let graph = Graph::new();
    let node = graph.open(&image(directory.path())).unwrap();
    let taken = Taken { graph: graph.clone(), node: node.clone(), answers: RefCell::default() };
    graph.close_on(&taken, "image").unwrap();
    let (answers, refused) = (taken.answers.take(), "Failed to find node with node-name='image'");
    assert!(!answers.is_empty() && answers.iter().all(|answer| answer == refused), "{answers:?}");
    // As a parent neither, and the name is another one's then.
    let again = graph.open(&image(directory.path())).unwrap();
    assert!(node.acquire(false).is_err() && again.acquire(false).is_ok());
    assert_eq!(graph.close("image").unwrap_err().to_string(), "Node image is in use");
    again.release(false);
    graph.close("image").unwrap();
}

#[test]
fn nodes_that_are_about_to_be_put_on_each_other_are_not_closed() {
    let directory = tempfile::tempdir().unwrap();
    let graph = Graph::new();
    let (disk, image) = (graph.open(&null(Some("disk"))).unwrap(), graph.open(&image(directory.path())).unwrap());
    let overlay = graph.prepare_overlay(&disk, &image).unwrap();
    for name in ["disk", "image"] {
        assert_eq!(graph.close(name).unwrap_err().to_string(), format!("Node {name} is in use"));
    }
    drop(overlay);
    ["disk", "image"].iter().for_each(|name| graph.close(name).unwrap());
    assert!(graph.nodes().is_empty());
}

#[test]
fn a_node_closes_when_nobody_uses_it_and_takes_its_inline_children_along() {
    let graph = Bench::new(1, &[], 1).graph;
    graph.open(&null(Some("base"))).unwrap();
    graph.open(&over("top", ChildRef::Name("base".into()))).unwrap();
    graph.open(&over("other", ChildRef::Inline(Box::new(null(Some("inner")))))).unwrap();
    let refused = |name: &str| graph.close(name).unwrap_err().to_string();
    assert_eq!(refused("base"), "Node base is in use");
    assert_eq!(refused("inner"), "Node inner is not owned by the monitor");
    assert_eq!(refused("none"), "Failed to find node with node-name='none'");
    let node = graph.find("top").unwrap();
    node.acquire(true).unwrap();
    assert_eq!(refused("top"), "Node top is in use");
    node.release(true);
    drop(node);
    graph.close("top").unwrap();
    graph.close("base").unwrap();
    graph.close("other").unwrap();
    assert!(graph.nodes().is_empty());
}

#[test]
fn files_that_cannot_be_opened_are_named_with_the_reason() {
    let bench = Bench::new(1, &[], 1);
    let directory = tempfile::tempdir().unwrap();
    let path = bench.image.path();
    let missing = directory.path().join("none");
    let open = |path: &Path, device| {
        let options = file_options(path);
        let DriverOptions::File(file) = options.driver.clone() else { unreachable!("made so") };
        let driver = DriverOptions::File(FileOptions { device, ..file });
        bench.graph.open(&NodeOptions { driver, ..options }).unwrap_err().to_string()
    };
    assert_eq!(open(&missing, false), format!("Could not open '{}': No such file or directory", missing.display()));
    let directory = directory.path();
    assert_eq!(open(directory, false), format!("Could not open '{}': Is a directory", directory.display()));
    let wanted = "either a character or block device";
    assert_eq!(open(path, true), format!("'host_device' driver requires '{}' to be {wanted}", path.display()));
    let debug = BlkDebugOptions {
        image: ChildRef::Inline(Box::new(null(None))),
        align: 0,
        config: Some(missing.clone()),
        inject_error: Vec::new(),
        set_state: Vec::new(),
        delay: Delays::default(),
    };
    let options = NodeOptions { node_name: Some("d".into()), ..NodeOptions::new(DriverOptions::BlkDebug(debug)) };
    let text = bench.graph.open(&options).unwrap_err().to_string();
    assert!(text.contains(&missing.display().to_string()) && text.ends_with("No such file or directory"), "{text}");
}

#[test]
fn resizing_goes_down_to_the_file_and_tells_who_listens() {
    let bench = Bench::new(1, &[0; 8192], 1);
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let list = told.clone();
    bench.graph.on_resize(Box::new(move |node| list.lock().unwrap().push((node.name().to_owned(), node.length()))));
    let file = NodeOptions { node_name: Some("file".into()), ..file_options(bench.image.path()) };
    let top = bench.graph.open(&over("top", ChildRef::Inline(Box::new(file)))).unwrap();
    resize(&bench.graph, &top, 16384).unwrap();
    assert_eq!(bench.image.as_file().metadata().unwrap().len(), 16384);
    assert_eq!(*told.lock().unwrap(), [("file".to_owned(), 16384), ("top".to_owned(), 16384)]);
    let null = bench.graph.open(&null(Some("null"))).unwrap();
    assert!(resize(&bench.graph, &null, 4096).is_err());
}

/// Resizes on a ring of its own.
fn resize(graph: &Arc<Graph>, node: &Arc<Node>, size: u64) -> Result<(), GraphError> {
    let ring = KernelRing::new(graph.files().clone(), Workers::new());
    let (graph, node, result) = (graph.clone(), node.clone(), Rc::new(RefCell::new(None)));
    let slot = result.clone();
    let task = move |io: Handle| async move { *slot.borrow_mut() = Some(graph.resize(&io, &node, size).await) };
    ring.run(Box::new(|io| Box::pin(task(io)))).unwrap();
    result.take().unwrap()
}
