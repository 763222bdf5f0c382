//! An image is put on top of a node that guests use: an external snapshot. Guests write to the image from then on, and
//! what the node has is what there was.
//!
//! What guests have written before, and what was still under way, is in the node only: until it is stable there, every
//! flush of the image is one of the node, too.

use super::Graph;
use super::swap::Swap;
use crate::epoch::Grace;
use crate::error::GraphError;
use crate::node::options::{Backing, ChildRef, DriverOptions};
use crate::node::{Driver, Hold, Kept, Node};
use crate::reactor::Handle;
use std::sync::Arc;

/// An image that is about to be put on top of a node.
pub struct Overlay {
    node: Arc<Node>,
    image: Arc<Node>,
    /// Where guests come: the image, or the uppermost of those that go on top of it at the same moment.
    front: Arc<Node>,
    swap: Option<Swap>,
    /// Who nobody closes: the node below, which the image keeps then, and the image.
    kept: Option<Kept>,
    _image: Kept,
    hold: Option<Hold>,
}

impl Graph {
    /// Looks whether `image` can be put on top of `node`. Nothing changes before [`Overlay::commit`]; if that does not
    /// come, drop it.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub fn prepare_overlay(&self, node: &Arc<Node>, image: &Arc<Node>) -> Result<Overlay, GraphError> {
        let refuse = |text: &str| Err(GraphError::Options(text.to_owned()));
        self.check_free(node)?;
        if image.is_used() {
            return refuse("The overlay is already in use");
        }
        if image.is_filter() {
            return refuse("Filters cannot be used as overlays");
        }
        let Driver::Qcow2(inner) = image.driver() else {
            return refuse("The overlay does not support backing images");
        };
        if inner.backing().is_some() {
            return refuse("The overlay already has a backing image");
        }
        self.check_free(image)?;
        if super::reaches(node, image) {
            let (node, image) = (node.name(), image.name());
            return Err(GraphError::Options(format!(
                "Making '{node}' a backing child of '{image}' would create a cycle"
            )));
        }
        if let Some(link) = self.frozen_above(node) {
            return refuse(&format!("Cannot change '{}' link to '{}'", link.role(), node.name()));
        }
        let swap = Some(self.prepare_swap(node, image)?);
        let hold = Some(Hold::of_reader(node)?);
        let (kept, _image) = (Some(Kept::new(node)?), Kept::new(image)?);
        Ok(Overlay { node: node.clone(), image: image.clone(), front: image.clone(), swap, kept, _image, hold })
    }

    /// Refuses a node that a job or an image above has for itself.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub fn check_free(&self, node: &Arc<Node>) -> Result<(), GraphError> {
        let busy = |reason: String| Err(GraphError::Options(format!("Node '{}' is busy: {reason}", node.name())));
        if let Some(reason) = node.busy() {
            return busy(reason.to_owned());
        }
        let is_above = |above: &Arc<Node>| match above.driver() {
            Driver::Qcow2(image) => image.backing().is_some_and(|below| Arc::ptr_eq(&below, node)),
            _ => false,
        };
        // Of several the newest is named, as by QEMU.
        match self.nodes().into_iter().rev().find(is_above) {
            Some(above) => busy(format!("node is used as backing hd of '{}'", above.name())),
            None => Ok(()),
        }
    }
}

impl Overlay {
    /// The node below.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The image on top.
    pub fn image(&self) -> &Arc<Node> {
        &self.image
    }

    /// Another image goes on top of this one at the same moment: guests come there.
    ///
    /// # Errors
    /// As [`Graph::prepare_swap`]; then the overlay can only be dropped.
    pub fn lead_to(&mut self, graph: &Graph, front: &Arc<Node>) -> Result<(), GraphError> {
        // Not two at a time from one node.
        self.swap = None;
        self.swap = Some(graph.prepare_swap(&self.node, front)?);
        self.front = front.clone();
        Ok(())
    }

    /// What to hold for [`Overlay::commit`].
    pub fn nodes(&self) -> &[Arc<Node>] {
        self.swap.as_ref().map_or(&[], Swap::nodes)
    }

    /// The switch; inside [`crate::node::points::hold`] of [`Overlay::nodes`].
    pub fn commit(&mut self) {
        let (Driver::Qcow2(image), Some(hold), Some(node)) = (self.image.driver(), self.hold.take(), self.kept.take())
        else {
            return;
        };
        self.swap.iter_mut().for_each(Swap::commit);
        image.cover(node, hold);
        self.front.points().flush_along(self.node.clone());
        let below = ChildRef::Name(self.node.name().to_owned());
        self.image.change_options(|options| {
            if let DriverOptions::Qcow2(options) = &mut options.driver {
                options.backing = Backing::Node(below);
            }
        });
    }

    /// Right after the hold: `grace` are the requests to the node from before.
    pub fn settle(&self, grace: Grace) {
        if let Driver::Qcow2(image) = self.image.driver() {
            image.settle(grace);
        }
    }

    /// When the node is stable: flushes of the image are its own; inside [`crate::node::points::hold`] of it.
    pub fn part(&self) {
        self.front.points().flush_alone(&self.node);
    }

    /// After grace: waits until nobody is under way to the node but through the image.
    pub async fn conclude(self, graph: &Graph, io: &Handle) {
        if let Some(swap) = self.swap {
            swap.conclude(graph, io).await;
        }
    }
}
