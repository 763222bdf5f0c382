//! Nodes that no command has opened: a job's point in time, listed as a filter over its source, and what reads it.
//!
//! Whoever lists them takes them off the list; `blockdev-del` does not.

use super::Graph;
use crate::error::GraphError;
use crate::node::copy_before_write::{CopyBeforeWrite, Filter, SnapshotAccess};
use crate::node::options::{ChildRef, CopyBeforeWriteOptions, CopyOnReadOptions, Discard, DriverOptions};
use crate::node::{Driver, Node, NodeOptions, Passing};
use std::sync::Arc;

impl Graph {
    /// Lists a point in time as a filter over its source, under a name of the caller's or a generated one. Until
    /// [`Graph::remove_filter`].
    ///
    /// # Errors
    /// The name is no identifier or taken.
    pub fn add_filter(&self, name: Option<&str>, copy: &Arc<CopyBeforeWrite>) -> Result<Arc<Node>, GraphError> {
        let options = NodeOptions { node_name: name.map(str::to_owned), ..NodeOptions::new(described(copy)) };
        self.list(&options, Driver::CopyBeforeWrite(Filter::listed(copy)), copy.source())
    }

    /// Lists a reader of the point in time of the filter `filter`, whose reader may discard what it has got. Until
    /// [`Graph::remove_filter`].
    ///
    /// # Errors
    /// The name is no identifier or taken; the node is no such filter.
    pub fn add_reader(&self, name: &str, filter: &Arc<Node>) -> Result<Arc<Node>, GraphError> {
        let driver = DriverOptions::SnapshotAccess(ChildRef::Name(filter.name().to_owned()));
        let options =
            NodeOptions { node_name: Some(name.to_owned()), discard: Discard::Unmap, ..NodeOptions::new(driver) };
        self.list(&options, Driver::SnapshotAccess(SnapshotAccess::new(name, filter)?), filter)
    }

    /// Lists what stands for a stream over `image`: a `copy-on-read` filter down to `bottom`, though nobody comes through
    /// it. Until [`Graph::remove_filter`].
    ///
    /// # Errors
    /// The name is no identifier or taken.
    pub fn add_stream(
        &self,
        name: Option<&str>,
        image: &Arc<Node>,
        bottom: &Arc<Node>,
    ) -> Result<Arc<Node>, GraphError> {
        let filter = Passing::copy_on_read(image, Some(bottom.clone()))?;
        self.list(&over(name, image, Some(bottom), false), Driver::Passing(filter), image)
    }

    /// Lists what stands for a job over `node`, with QEMU's name of the driver, as one that takes writes or not. Until
    /// [`Graph::remove_filter`].
    ///
    /// # Errors
    /// The name is no identifier or taken.
    pub fn add_job(
        &self,
        name: Option<&str>,
        node: &Arc<Node>,
        driver: &'static str,
        read_only: bool,
    ) -> Result<Arc<Node>, GraphError> {
        self.list(&over(name, node, None, read_only), Driver::Passing(Passing::of_job(node, driver)), node)
    }

    /// The filters that nobody has opened by themselves over `node`: what stands for jobs is among them.
    pub fn filters_over(&self, node: &Arc<Node>) -> Vec<Arc<Node>> {
        let over = |filter: &Arc<Node>| {
            filter.is_filter() && !filter.is_root() && filter.child().is_some_and(|child| Arc::ptr_eq(&child, node))
        };
        self.nodes().into_iter().filter(over).collect()
    }

    /// Lists a node over `child` that no command has opened.
    fn list(&self, options: &NodeOptions, driver: Driver, child: &Arc<Node>) -> Result<Arc<Node>, GraphError> {
        let mut names = self.lock();
        let name = self.name(options, &names)?;
        let node = Arc::new(Node::new(name.clone(), false, options, child.length(), driver).among(&self.stakes));
        child.adopt()?;
        self.order().push(name.clone());
        names.insert(name, node.clone());
        Ok(node)
    }

    /// Lists a filter or a reader no longer.
    pub fn remove_filter(&self, node: &Arc<Node>) {
        self.lock().remove(node.name());
        self.order().retain(|name| name != node.name());
        if !node.is_used() {
            // Whoever still knows it does not keep what is below.
            node.abandon_children();
        }
    }
}

/// The options that what stands for a job would have as a node.
fn over(name: Option<&str>, node: &Arc<Node>, bottom: Option<&Arc<Node>>, read_only: bool) -> NodeOptions {
    let file = ChildRef::Name(node.name().to_owned());
    let bottom = bottom.map(|bottom| bottom.name().to_owned());
    let driver = DriverOptions::CopyOnRead(CopyOnReadOptions { file, bottom });
    NodeOptions { node_name: name.map(str::to_owned), read_only: read_only.into(), ..NodeOptions::new(driver) }
}

/// The options that a point in time of a job would have as a node.
fn described(copy: &CopyBeforeWrite) -> DriverOptions {
    let named = |node: &Node| ChildRef::Name(node.name().to_owned());
    let (file, target) = (named(copy.source()), named(copy.target()));
    DriverOptions::CopyBeforeWrite(CopyBeforeWriteOptions { file, target, bitmap: None, copying: copy.options() })
}
