//! Files that take no more writes because a flush has failed: they take writes again when a flush succeeds.
//!
//! What was written since the last flush that succeeded may be lost. A guest was told so. An image writes what it has in
//! memory of that once more, and bitmaps, which may have been told of writes that are lost or not, mark everything.

use super::access::not_flushed;
use super::children::reaches;
use super::{Change, Reopen};
use crate::error::GraphError;
use crate::graph;
use crate::node::{Driver, Node};
use crate::reactor::Handle;
use std::sync::Arc;

impl Reopen {
    /// Has the poisoned files among and below the nodes take writes again.
    pub(super) async fn revive(&self, io: &Handle) -> Result<(), GraphError> {
        let mut files = Vec::new();
        self.changes.iter().for_each(|Change { node, .. }| poisoned(node, &mut files));
        for file in files {
            self.revive_file(io, &file).await?;
        }
        Ok(())
    }

    async fn revive_file(&self, io: &Handle, node: &Arc<Node>) -> Result<(), GraphError> {
        let Driver::File(file) = node.driver() else { return Ok(()) };
        let above: Vec<_> = self.all.iter().filter(|other| reaches(other, node, &[])).collect();
        let mut images = Vec::new();
        for node in &above {
            if let Driver::Qcow2(image) = node.driver()
                && !image.is_read_only()
            {
                images.push((image, image.pause_write_back().await));
            }
        }
        if !file.revive(io).await.map_err(not_flushed)? {
            return Ok(());
        }
        for (image, _turn) in &images {
            image.doubt_last_writes(io).await.map_err(not_flushed)?;
        }
        above.iter().for_each(|node| node.points().tracking().mark_all());
        let name = node.name();
        tracing::warn!(
            node = name,
            file = file.path(),
            "takes writes again after a flush that failed: bitmaps mark all"
        );
        Ok(())
    }
}

/// Adds the poisoned files from `node` down, each once.
fn poisoned(node: &Arc<Node>, files: &mut Vec<Arc<Node>>) {
    if matches!(node.driver(), Driver::File(file) if file.is_poisoned())
        && !files.iter().any(|other| Arc::ptr_eq(other, node))
    {
        files.push(node.clone());
    }
    graph::children(node).iter().for_each(|child| poisoned(child, files));
}
