//! The graph: nodes by name, opened and closed by the control plane.
//!
//! The data path never comes here: an export holds its node. Knows no exports beyond the count of users a node keeps.
//! Opening and closing take I/O: one at a time, and whoever looks for a node does not wait for it.

mod apart;
mod backing_name;
mod chain;
pub mod create;
mod errand;
mod frozen;
mod image;
mod inspect;
mod journal;
mod listed;
mod moved;
pub mod new_overlay;
pub mod overlay;
pub mod rebase;
pub mod reopen;
pub mod repair;
mod resize;
pub mod snapshots;
pub mod swap;
pub mod target;

pub use apart::check_apart;
pub use chain::path_named;
pub use errand::{Errand, KernelRing, Runner};
pub use inspect::{ImageCheckError, ImageFormat, InspectError, Inspected};

use crate::bitmaps::BitmapError;
use crate::error::GraphError;
use crate::io::{FileTable, Workers};
use crate::node::copy_before_write::{Filter, SnapshotAccess};
use crate::node::options::{ChildRef, Discard, DriverOptions, NullOptions, Setting};
use crate::node::qcow2::{changes, corruption};
use crate::node::{BlkDebug, Driver, File, Nbd, Node, NodeOptions, Null, Passing, Raw, Released, Stakes, Throttle};
use chain::Chain;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tidemark_cbt::Bitmap;

type Names = BTreeMap<String, Arc<Node>>;

/// Called with a node whose length has changed.
pub type ResizeListener = Box<dyn Fn(&Arc<Node>) + Send + Sync>;

/// All nodes of the daemon.
#[derive(Default)]
pub struct Graph {
    nodes: Mutex<Names>,
    /// Whose turn it is to open or close nodes.
    changing: Mutex<()>,
    /// Names of nodes that are being opened.
    claimed: Mutex<BTreeSet<String>>,
    order: Mutex<Vec<String>>,
    generated: std::sync::atomic::AtomicU32,
    files: Arc<FileTable>,
    workers: Arc<Workers>,
    backing_dirs: Mutex<Vec<PathBuf>>,
    listeners: Mutex<Vec<ResizeListener>>,
    corruption: Arc<OnceLock<corruption::Listener>>,
    changes: Arc<OnceLock<changes::Listener>>,
    stakes: Arc<Stakes>,
}

/// Nodes being opened.
struct Opening<'a> {
    names: Names,
    opened: Vec<Arc<Node>>,
    runner: &'a dyn Runner,
    /// Of an image that is opened because another one's header names it: where that leads.
    chain: Option<Chain>,
}

/// The turn of who opens or closes nodes. What was claimed is free when it is over, or the name of a node.
struct Turn<'a> {
    graph: &'a Graph,
    _changing: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.graph.claimed().clear();
    }
}

impl Graph {
    /// A graph without nodes.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The open files, for rings to look up.
    pub fn files(&self) -> &Arc<FileTable> {
        &self.files
    }

    /// Has `listener` told of change journals of images that are opened from now on. Only the first one is.
    pub fn on_changes(&self, listener: changes::Listener) {
        let _ = self.changes.set(listener);
    }

    /// Has `listener` told of corruption that is found in images, also in those that are open. Only the first one is.
    pub fn on_corruption(&self, listener: corruption::Listener) {
        let _ = self.corruption.set(listener);
    }

    /// Opens a root node and everything its options describe below it. On an error nothing stays open.
    ///
    /// # Errors
    /// With QEMU's texts; see [`GraphError`].
    pub fn open(&self, options: &NodeOptions) -> Result<Arc<Node>, GraphError> {
        self.open_on(&self.ring(), options)
    }

    /// As [`Graph::open`], with this to do what reads files.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(&self, runner: &dyn Runner, options: &NodeOptions) -> Result<Arc<Node>, GraphError> {
        if options.node_name.is_none() {
            return Err(GraphError::NameMissing);
        }
        self.open_as(options, true, runner)
    }

    /// Opens a node and lists it.
    fn open_as(&self, options: &NodeOptions, root: bool, runner: &dyn Runner) -> Result<Arc<Node>, GraphError> {
        let _turn = self.turn();
        let mut opening = self.opening(runner);
        let node = self.build(options, root, &mut opening)?;
        let opened = opening.opened;
        let mut names = self.lock();
        self.order().extend(opened.iter().map(|node| node.name().to_owned()));
        names.extend(opened.into_iter().map(|node| (node.name().to_owned(), node)));
        Ok(node)
    }

    fn opening<'a>(&self, runner: &'a dyn Runner) -> Opening<'a> {
        Opening { names: self.lock().clone(), opened: Vec::new(), runner, chain: None }
    }

    fn turn(&self) -> Turn<'_> {
        Turn { graph: self, _changing: self.changing.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    fn claimed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a root node and the inline nodes below it.
    ///
    /// # Errors
    /// [`GraphError::NotFound`], [`GraphError::InUse`], [`GraphError::NotOwned`].
    pub fn close(&self, name: &str) -> Result<(), GraphError> {
        self.close_on(&self.ring(), name)
    }

    /// As [`Graph::close`], with this to do what writes files. What cannot be written is logged; the nodes go anyway.
    ///
    /// # Errors
    /// As there.
    pub fn close_on(&self, runner: &dyn Runner, name: &str) -> Result<(), GraphError> {
        let _turn = self.turn();
        let node = self.find(name).ok_or_else(|| GraphError::NotFound(name.to_owned()))?;
        if let Some(reason) = node.busy() {
            return Err(GraphError::Busy { name: name.to_owned(), reason });
        }
        if !node.is_root() && !node.points().has_doors() {
            return Err(GraphError::NotOwned(name.to_owned()));
        }
        // A copy that a write has given up on still writes to its target, whoever would use that next.
        if is_copying(&node) || !node.retire() {
            return Err(GraphError::InUse(name.to_owned()));
        }
        let _released = Released::of([&node]);
        self.remove(node, runner);
        Ok(())
    }

    /// The node with this name.
    pub fn find(&self, name: &str) -> Option<Arc<Node>> {
        self.lock().get(name).cloned()
    }

    /// All nodes, in the order they were opened (children before parents).
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let names = self.lock();
        self.order().iter().filter_map(|name| names.get(name).cloned()).collect()
    }

    fn build(&self, options: &NodeOptions, root: bool, opening: &mut Opening<'_>) -> Result<Arc<Node>, GraphError> {
        let name = self.claim(options)?;
        let (driver, length) = match &options.driver {
            DriverOptions::File(file) => {
                let (file, length) = File::open(options, file, &self.files)?;
                (Driver::File(file), length)
            }
            DriverOptions::Null(null) => null_driver(null)?,
            DriverOptions::Nbd(nbd) => {
                let (disk, length) = Nbd::open(options, nbd, &self.files, &self.workers)?;
                (Driver::Nbd(Box::new(disk)), length)
            }
            DriverOptions::Raw(raw) => {
                let child = self.child(&raw.file, options, opening)?;
                let (raw, length) = Raw::new(child, raw)?;
                (Driver::Raw(raw), length)
            }
            DriverOptions::BlkDebug(debug) => {
                let child = self.child(&debug.image, options, opening)?;
                let length = child.length();
                (Driver::BlkDebug(BlkDebug::new(child, debug)?), length)
            }
            DriverOptions::Throttle(throttle) => {
                let child = self.child(&throttle.file, options, opening)?;
                let length = child.length();
                (Driver::Throttle(Throttle::new(child, throttle)?), length)
            }
            DriverOptions::CopyOnRead(filter) => {
                let child = self.child(&filter.file, options, opening)?;
                let find = |name: &String| {
                    let missing = || GraphError::Options(format!("Bottom node '{name}' not found"));
                    opening.names.get(name).cloned().ok_or_else(missing)
                };
                let bottom = filter.bottom.as_ref().map(find).transpose()?;
                (Driver::Passing(Passing::copy_on_read(&child, bottom)?), child.length())
            }
            DriverOptions::CopyBeforeWrite(copy) => {
                let source = self.child(&copy.file, options, opening)?;
                let target = self.child(&copy.target, options, opening)?;
                if !Arc::ptr_eq(&source, &target) {
                    check_apart(&source, &target, &name)?;
                }
                let access =
                    copy.bitmap.as_ref().map(|(node, name)| access(&opening.names, node, name, source.length()));
                let filter = Filter::new(&name, &source, &target, access.transpose()?, copy.copying)?;
                (Driver::CopyBeforeWrite(filter), source.length())
            }
            DriverOptions::SnapshotAccess(file) => {
                let child = self.child(file, options, opening)?;
                let length = child.length();
                (Driver::SnapshotAccess(SnapshotAccess::new(&name, &child)?), length)
            }
            DriverOptions::Qcow2(qcow2) => {
                let image = self.open_image(&name, options, qcow2, opening)?;
                let length = image.length();
                (Driver::Qcow2(Box::new(image)), length)
            }
        };
        let node = Arc::new(Node::new(name, root, options, length, driver).among(&self.stakes));
        node.adopt_children()?;
        opening.opened.push(node.clone());
        Ok(node)
    }

    /// A child by name, or opened with what it inherits from its parent.
    fn child(
        &self,
        reference: &ChildRef,
        parent: &NodeOptions,
        opening: &mut Opening<'_>,
    ) -> Result<Arc<Node>, GraphError> {
        match reference {
            ChildRef::Name(name) => {
                opening.names.get(name).cloned().ok_or_else(|| GraphError::ChildNotFound(name.clone()))
            }
            ChildRef::Inline(options) => self.build(&inherited(options, parent), false, opening),
        }
    }

    /// A name that nobody else gets while the turn lasts.
    fn claim(&self, options: &NodeOptions) -> Result<String, GraphError> {
        let names = self.lock();
        let name = self.name(options, &names)?;
        self.claimed().insert(name.clone());
        Ok(name)
    }

    fn name(&self, options: &NodeOptions, names: &Names) -> Result<String, GraphError> {
        let taken = |name: &str| names.contains_key(name) || self.claimed().contains(name);
        match &options.node_name {
            Some(name) if !is_identifier(name) => Err(GraphError::NameInvalid(name.clone())),
            Some(name) if taken(name) => Err(GraphError::NameTaken(name.clone())),
            Some(name) => Ok(name.clone()),
            None => {
                let number = self.generated.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(format!("#block{number:03}"))
            }
        }
    }

    /// Closes a node that has retired, and the inline nodes below that nobody uses then.
    fn remove(&self, node: Arc<Node>, runner: &dyn Runner) {
        image::close(&node, runner);
        self.lock().remove(node.name());
        self.order().retain(|name| name != node.name());
        let children = children(&node);
        if let Driver::File(file) = node.driver() {
            file.close();
        }
        // Somebody who has looked it up may keep it a little longer.
        node.abandon_children();
        for child in children {
            // Of two edges to one node the last one takes it along.
            if !child.is_root() && self.find(child.name()).is_some() && child.retire() {
                self.remove(child, runner);
            }
        }
    }

    fn ring(&self) -> KernelRing {
        KernelRing::new(self.files.clone(), self.workers.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self) -> MutexGuard<'_, Vec<String>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `to` is `from` or below it.
fn reaches(from: &Arc<Node>, to: &Arc<Node>) -> bool {
    Arc::ptr_eq(from, to) || children(from).iter().any(|child| reaches(child, to))
}

/// The nodes below one, along every edge.
fn children(node: &Node) -> Vec<Arc<Node>> {
    let target = match node.driver() {
        Driver::CopyBeforeWrite(filter) if filter.is_own() => Some(filter.copy().target()),
        _ => None,
    };
    node.adopted().chain(target.cloned()).collect()
}

/// Whether a filter that is closed together with `node` has copies under way.
fn is_copying(node: &Node) -> bool {
    matches!(node.driver(), Driver::CopyBeforeWrite(filter) if filter.is_own() && !filter.copy().is_quiet())
        || children(node).iter().any(|child| !child.is_root() && is_copying(child))
}

/// What a bitmap marks now, for a point in time of a node of `len` bytes.
fn access(names: &Names, node: &str, name: &str, len: u64) -> Result<Bitmap, GraphError> {
    let node = names.get(node).ok_or_else(|| GraphError::Options(format!("Node '{node}' not found")))?;
    let marked = match node.points().tracking().readable(name) {
        Ok(marked) => marked,
        Err(error @ BitmapError::NotFound(_)) => return Err(GraphError::Options(error.to_string())),
        Err(error) => {
            return Err(GraphError::Options(format!(
                "Cannot create block-copy-state: Failed to merge bitmap '{name}' to internal copy-bitmap: {error}"
            )));
        }
    };
    if marked.len() != len {
        return Err(GraphError::Options(format!(
            "Cannot create block-copy-state: Failed to merge bitmap '{name}' to internal copy-bitmap: Bitmaps are of \
             different sizes (destination size is {len}, source size is {}) and can't be merged",
            marked.len()
        )));
    }
    let access = Bitmap::new(len, marked.granularity())?;
    access.merge(&marked);
    Ok(access)
}

fn null_driver(options: &NullOptions) -> Result<(Driver, u64), GraphError> {
    let size = options.size.checked_next_multiple_of(512).filter(|size| i64::try_from(*size).is_ok());
    let size = size.ok_or_else(|| GraphError::Options("The size of the node is too large".into()))?;
    Ok((Driver::Null(Null::new(options.clone())), size))
}

/// An inline child takes its parent's cache mode and access where it says nothing itself.
fn inherited(child: &NodeOptions, parent: &NodeOptions) -> NodeOptions {
    NodeOptions {
        force_share: child.force_share || parent.force_share,
        discard: if child.discard == Discard::Unmap { child.discard } else { parent.discard },
        ..child.clone().with_settings(parent, Setting::under)
    }
}

/// Whether a node may have this name: an identifier of less than 32 characters.
fn is_identifier(name: &str) -> bool {
    is_well_formed(name) && name.len() < 32
}

/// QEMU's `id_wellformed`: a letter, then letters, digits, `-`, `.`, `_`.
pub(crate) fn is_well_formed(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic())
        && chars.all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_'))
}
