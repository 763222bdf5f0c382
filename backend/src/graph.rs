//! The graph: nodes by name, opened and closed by the control plane.
//!
//! The data path never comes here: an export holds its node. Knows no exports beyond the count of users a node keeps.

mod apart;

pub use apart::check_apart;

use crate::error::GraphError;
use crate::io::FileTable;
use crate::node::copy_before_write::{CopyBeforeWrite, Filter, SnapshotAccess};
use crate::node::options::{ChildRef, CopyBeforeWriteOptions, DriverOptions, NullOptions};
use crate::node::{BlkDebug, Driver, File, Node, NodeOptions, Null, Raw};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemark_cbt::Bitmap;

type Names = BTreeMap<String, Arc<Node>>;

/// Called with a node whose length has changed.
pub type ResizeListener = Box<dyn Fn(&Arc<Node>) + Send + Sync>;

/// All nodes of the daemon.
#[derive(Default)]
pub struct Graph {
    nodes: Mutex<Names>,
    order: Mutex<Vec<String>>,
    generated: std::sync::atomic::AtomicU32,
    files: Arc<FileTable>,
    listeners: Mutex<Vec<ResizeListener>>,
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

    /// Opens a root node and everything its options describe below it. On an error nothing stays open.
    ///
    /// # Errors
    /// With QEMU's texts; see [`GraphError`].
    pub fn open(&self, options: &NodeOptions) -> Result<Arc<Node>, GraphError> {
        let mut names = self.lock();
        let mut opened = Vec::new();
        if options.node_name.is_none() {
            return Err(GraphError::NameMissing);
        }
        let node = self.build(options, true, &names, &mut opened)?;
        self.order().extend(opened.iter().map(|node| node.name().to_owned()));
        names.extend(opened.into_iter().map(|node| (node.name().to_owned(), node)));
        Ok(node)
    }

    /// Closes a root node and the inline nodes below it.
    ///
    /// # Errors
    /// [`GraphError::NotFound`], [`GraphError::InUse`], [`GraphError::NotOwned`].
    pub fn close(&self, name: &str) -> Result<(), GraphError> {
        let mut names = self.lock();
        let node = names.get(name).cloned().ok_or_else(|| GraphError::NotFound(name.to_owned()))?;
        if let Some(reason) = node.busy() {
            return Err(GraphError::Busy { name: name.to_owned(), reason });
        }
        if !node.is_root() {
            return Err(GraphError::NotOwned(name.to_owned()));
        }
        // A copy that a write has given up on still writes to its target, whoever would use that next.
        if node.users() > 0 || is_copying(&node) {
            return Err(GraphError::InUse(name.to_owned()));
        }
        self.remove(&mut names, node);
        Ok(())
    }

    /// Lists a point in time as a filter over its source, under a name of the caller's or a generated one. Until
    /// [`Graph::remove_filter`].
    ///
    /// # Errors
    /// The name is no identifier or taken.
    pub fn add_filter(&self, name: Option<&str>, copy: &Arc<CopyBeforeWrite>) -> Result<Arc<Node>, GraphError> {
        let mut names = self.lock();
        let length = copy.source().length();
        let driver = Driver::CopyBeforeWrite(Filter::listed(copy));
        let options = NodeOptions { node_name: name.map(str::to_owned), ..NodeOptions::new(described(copy)) };
        let name = self.name(&options, &names, &[])?;
        let node = Arc::new(Node::new(name.clone(), false, &options, length, driver));
        copy.source().adopt();
        self.order().push(name.clone());
        names.insert(name, node.clone());
        Ok(node)
    }

    /// Lists it no longer.
    pub fn remove_filter(&self, node: &Arc<Node>) {
        self.lock().remove(node.name());
        self.order().retain(|name| name != node.name());
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

    /// Has `listener` called after each change of a node's length.
    pub fn on_resize(&self, listener: ResizeListener) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Changes a node's length, down to its file, and tells the exports.
    ///
    /// # Errors
    /// The driver cannot resize, or the system refuses.
    pub fn resize(&self, node: &Arc<Node>, size: u64) -> Result<(), GraphError> {
        let below = match node.driver() {
            Driver::File(file) => file.resize(size)?,
            Driver::Raw(raw) if raw.has_fixed_size() => {
                return Err(GraphError::Options("Cannot resize fixed-size raw disks".into()));
            }
            Driver::Raw(raw) => {
                let end = size.checked_add(raw.offset());
                let end = end.ok_or(GraphError::Options("Disk size too large for the chosen offset".into()))?;
                self.resize(raw.child(), end)?;
                size
            }
            Driver::BlkDebug(filter) => {
                self.resize(filter.child(), size)?;
                size
            }
            Driver::Null(_) | Driver::CopyBeforeWrite(_) | Driver::SnapshotAccess(_) | Driver::Qcow2(_) => {
                return Err(GraphError::Options("Image format driver does not support resize".into()));
            }
        };
        node.set_length(below);
        self.tell(node);
        Ok(())
    }

    /// The nodes whose length [`Graph::resize`] changes, from `node` down, with the length each will have.
    pub fn resized_with(&self, node: &Arc<Node>, size: u64) -> Vec<(Arc<Node>, u64)> {
        let mut all = vec![(node.clone(), size)];
        while let Some((last, size)) = all.last() {
            let below = match last.driver() {
                Driver::Raw(raw) if !raw.has_fixed_size() => (raw.child().clone(), size.saturating_add(raw.offset())),
                Driver::BlkDebug(filter) => (filter.child().clone(), *size),
                _ => break,
            };
            all.push(below);
        }
        all
    }

    /// Looks at the device or file below a node again; tells the exports if it has grown.
    pub fn refresh_length(&self, node: &Arc<Node>) {
        let found = match node.driver() {
            Driver::File(file) => file.current_length().ok(),
            Driver::Raw(raw) if !raw.has_fixed_size() => {
                self.refresh_length(raw.child());
                Some(raw.child().length().saturating_sub(raw.offset()))
            }
            Driver::BlkDebug(filter) => {
                self.refresh_length(filter.child());
                Some(filter.child().length())
            }
            // A point in time keeps its length.
            Driver::Raw(_)
            | Driver::Null(_)
            | Driver::CopyBeforeWrite(_)
            | Driver::SnapshotAccess(_)
            | Driver::Qcow2(_) => None,
        };
        if let Some(length) = found
            && length > node.length()
        {
            node.set_length(length);
            self.tell(node);
        }
    }

    fn tell(&self, node: &Arc<Node>) {
        for listener in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(node);
        }
    }

    fn build(
        &self,
        options: &NodeOptions,
        root: bool,
        names: &Names,
        opened: &mut Vec<Arc<Node>>,
    ) -> Result<Arc<Node>, GraphError> {
        let name = self.name(options, names, opened)?;
        let (driver, length) = match &options.driver {
            DriverOptions::File(file) => {
                let (file, length) = File::open(options, file, &self.files)?;
                (Driver::File(file), length)
            }
            DriverOptions::Null(null) => null_driver(null)?,
            DriverOptions::Raw(raw) => {
                let child = self.child(&raw.file, options, names, opened)?;
                let (raw, length) = Raw::new(child, raw)?;
                (Driver::Raw(raw), length)
            }
            DriverOptions::BlkDebug(debug) => {
                let child = self.child(&debug.image, options, names, opened)?;
                let length = child.length();
                (Driver::BlkDebug(BlkDebug::new(child, debug)?), length)
            }
            DriverOptions::CopyBeforeWrite(copy) => {
                let source = self.child(&copy.file, options, names, opened)?;
                let target = self.child(&copy.target, options, names, opened)?;
                if !Arc::ptr_eq(&source, &target) {
                    check_apart(&source, &target, &name)?;
                }
                let access = copy.bitmap.as_ref().map(|(node, name)| access(names, node, name, source.length()));
                let filter = Filter::new(&source, &target, access.transpose()?, copy.copying)?;
                (Driver::CopyBeforeWrite(filter), source.length())
            }
            DriverOptions::SnapshotAccess(file) => {
                let child = self.child(file, options, names, opened)?;
                let length = child.length();
                (Driver::SnapshotAccess(SnapshotAccess::new(&child)?), length)
            }
        };
        if opened.iter().any(|child| child.name() == name) {
            return Err(GraphError::NameTaken(name));
        }
        let node = Arc::new(Node::new(name, root, options, length, driver));
        node.child().into_iter().for_each(|child| child.adopt());
        opened.push(node.clone());
        Ok(node)
    }

    /// A child by name, or opened with what it inherits from its parent.
    fn child(
        &self,
        reference: &ChildRef,
        parent: &NodeOptions,
        names: &Names,
        opened: &mut Vec<Arc<Node>>,
    ) -> Result<Arc<Node>, GraphError> {
        match reference {
            ChildRef::Name(name) => names.get(name).cloned().ok_or_else(|| GraphError::ChildNotFound(name.clone())),
            ChildRef::Inline(options) => self.build(&inherited(options, parent), false, names, opened),
        }
    }

    fn name(&self, options: &NodeOptions, names: &Names, opened: &[Arc<Node>]) -> Result<String, GraphError> {
        let taken = |name: &str| names.contains_key(name) || opened.iter().any(|node| node.name() == name);
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

    fn remove(&self, names: &mut Names, node: Arc<Node>) {
        names.remove(node.name());
        self.order().retain(|name| name != node.name());
        let children = children(&node);
        drop(node);
        for child in children {
            // Of two edges to one node the last one takes it along.
            if !child.is_root() && child.users() == 0 && names.contains_key(child.name()) {
                self.remove(names, child);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self) -> MutexGuard<'_, Vec<String>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nodes below one, along every edge.
fn children(node: &Node) -> Vec<Arc<Node>> {
    let target = match node.driver() {
        Driver::CopyBeforeWrite(filter) if filter.is_own() => Some(filter.copy().target()),
        _ => None,
    };
    node.child().into_iter().chain(target).cloned().collect()
}

/// Whether a filter that is closed together with `node` has copies under way.
fn is_copying(node: &Node) -> bool {
    matches!(node.driver(), Driver::CopyBeforeWrite(filter) if filter.is_own() && !filter.copy().is_quiet())
        || children(node).iter().any(|child| !child.is_root() && is_copying(child))
}

/// The options that a point in time of a job would have as a node.
fn described(copy: &CopyBeforeWrite) -> DriverOptions {
    let named = |node: &Node| ChildRef::Name(node.name().to_owned());
    let (file, target) = (named(copy.source()), named(copy.target()));
    DriverOptions::CopyBeforeWrite(CopyBeforeWriteOptions { file, target, bitmap: None, copying: copy.options() })
}

/// What a bitmap marks now, for a point in time of a node of `len` bytes.
fn access(names: &Names, node: &str, name: &str, len: u64) -> Result<Bitmap, GraphError> {
    let node = names.get(node).ok_or_else(|| GraphError::Options(format!("Node '{node}' not found")))?;
    let marked = node.points().tracking().content(name);
    let marked = marked.ok_or_else(|| GraphError::Options(format!("Dirty bitmap '{name}' not found")))?;
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
        cache_direct: child.cache_direct.or(parent.cache_direct),
        cache_no_flush: child.cache_no_flush.or(parent.cache_no_flush),
        read_only: child.read_only || parent.read_only,
        auto_read_only: child.auto_read_only || parent.auto_read_only,
        force_share: child.force_share || parent.force_share,
        discard: if child.discard == crate::node::options::Discard::Unmap { child.discard } else { parent.discard },
        ..child.clone()
    }
}

/// QEMU's `id_wellformed`: a letter, then letters, digits, `-`, `.`, `_`; names end before 32 characters.
pub(crate) fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic())
        && chars.all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_'))
        && name.len() < 32
}
