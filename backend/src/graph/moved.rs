//! Another node below one than before: what keeps both in use while the way to them changes.

use crate::error::GraphError;
use crate::node::{Driver, Hold, Lead, Node};
use std::sync::Arc;

/// Another node below one, or none; kept for it from when it is looked at.
pub(in crate::graph) struct Moved {
    last: Option<Arc<Node>>,
    node: Option<Arc<Node>>,
    /// What keeps others from it, if it is below an image.
    hold: Option<Hold>,
    /// Those who come through from above.
    lead: Option<Lead>,
    settled: bool,
}

impl Moved {
    /// # Errors
    /// [`GraphError::NotFound`]: it is being closed.
    pub(in crate::graph) fn new(last: Option<Arc<Node>>, node: Option<Arc<Node>>) -> Result<Self, GraphError> {
        let moved = Self { last, node, hold: None, lead: None, settled: false };
        // Nobody closes it.
        moved.node.iter().try_for_each(|node| node.adopt())?;
        Ok(moved)
    }

    /// What is below so far.
    pub(in crate::graph) fn last(&self) -> Option<&Arc<Node>> {
        self.last.as_ref()
    }

    pub(in crate::graph) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// Takes it into use as what `parent` calls `file`.
    pub(in crate::graph) fn enter_file(&mut self, parent: &Arc<Node>) -> Result<(), GraphError> {
        let Some(node) = &self.node else { return Ok(()) };
        match parent.driver() {
            Driver::Qcow2(image) => {
                self.hold = Some(Hold::of_format(node, parent.name(), "file", !image.is_read_only())?);
            }
            _ => self.lead = Some(Lead::begin(parent, node)?),
        }
        Ok(())
    }

    /// Takes it into use below an image.
    pub(in crate::graph) fn enter_backing(&mut self) -> Result<(), GraphError> {
        self.hold = self.node.as_ref().map(Hold::of_reader).transpose()?;
        Ok(())
    }

    /// It is below; the one before is as long as it may be in use.
    pub(in crate::graph) fn settle(&mut self) {
        self.settled = true;
        if let (Some(lead), Some(last)) = (&mut self.lead, &self.last) {
            lead.commit(last);
        }
    }

    /// Nobody comes through to the one before any more. Returns it.
    pub(in crate::graph) fn leave(mut self, parent: &Arc<Node>) -> Option<Arc<Node>> {
        let last = self.last.take();
        if let Driver::Qcow2(image) = parent.driver() {
            image.exchange_holds(last.as_ref(), self.hold.take());
        }
        last.iter().for_each(|last| last.abandon());
        last
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if !self.settled {
            self.node.iter().for_each(|node| node.abandon());
        }
    }
}
