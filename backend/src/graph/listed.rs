//! Nodes that no command has opened: a job's point in time, listed as a filter over its source, and what reads it.
//!
//! Whoever lists them takes them off the list; `blockdev-del` does not.

use super::Graph;
use crate::error::GraphError;
use crate::node::copy_before_write::{CopyBeforeWrite, Filter, SnapshotAccess};
use crate::node::options::{ChildRef, CopyBeforeWriteOptions, Discard, DriverOptions};
use crate::node::{Driver, Node, NodeOptions};
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
        self.list(&options, Driver::SnapshotAccess(SnapshotAccess::new(filter)?), filter)
    }

    /// Lists a node over `child` that no command has opened.
    fn list(&self, options: &NodeOptions, driver: Driver, child: &Arc<Node>) -> Result<Arc<Node>, GraphError> {
        let mut names = self.lock();
        let name = self.name(options, &names)?;
        let node = Arc::new(Node::new(name.clone(), false, options, child.length(), driver));
        child.adopt();
        self.order().push(name.clone());
        names.insert(name, node.clone());
        Ok(node)
    }

    /// Lists a filter or a reader no longer.
    pub fn remove_filter(&self, node: &Arc<Node>) {
        self.lock().remove(node.name());
        self.order().retain(|name| name != node.name());
    }
}

/// The options that a point in time of a job would have as a node.
fn described(copy: &CopyBeforeWrite) -> DriverOptions {
    let named = |node: &Node| ChildRef::Name(node.name().to_owned());
    let (file, target) = (named(copy.source()), named(copy.target()));
    DriverOptions::CopyBeforeWrite(CopyBeforeWriteOptions { file, target, bitmap: None, copying: copy.options() })
}
