//! Lengths of nodes: changed by somebody, or found to have changed.
//!
//! Knows which drivers have their length from below; points in time and images do not.

use super::{Graph, ResizeListener};
use crate::error::GraphError;
use crate::node::{Driver, Node};
use std::sync::{Arc, PoisonError};

impl Graph {
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
}
