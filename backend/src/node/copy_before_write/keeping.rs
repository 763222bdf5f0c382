//! Overlays as targets: an image that keeps a point in time of a node, and shows that node where it has nothing itself.
//!
//! Whoever reads it has to look twice, because what it shows may be copied to it and overwritten below while it is read.
//! It knows so as long as a [`Keeping`] is there.

use crate::node::{Driver, Node};
use std::sync::Arc;

/// Says to an overlay of `source` that a point in time of it is kept there.
pub(super) struct Keeping(Option<Arc<Node>>);

impl Keeping {
    /// Looks whether the image behind `target` shows something of `source`.
    pub(super) fn begin(source: &Arc<Node>, target: &Arc<Node>) -> Self {
        let mut nodes = std::iter::successors(Some(target.clone()), |node| node.child());
        let image = nodes.find(|node| matches!(node.driver(), Driver::Qcow2(_)));
        let image = image.filter(|image| match image.driver() {
            Driver::Qcow2(qcow2) => qcow2.backing().is_some_and(|backing| shares(&backing, source)),
            _ => false,
        });
        image.iter().for_each(|image| with_image(image, |image| image.begin_keeping()));
        Self(image)
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.iter().for_each(|image| with_image(image, |image| image.end_keeping()));
    }
}

fn with_image(node: &Node, tell: impl Fn(&crate::node::qcow2::image::Image)) {
    if let Driver::Qcow2(image) = node.driver() {
        tell(image);
    }
}

/// Whether both reach one node.
fn shares(one: &Arc<Node>, other: &Arc<Node>) -> bool {
    let others = reached(other);
    reached(one).iter().any(|node| others.iter().any(|other| Arc::ptr_eq(node, other)))
}

/// A node and all below it.
fn reached(node: &Arc<Node>) -> Vec<Arc<Node>> {
    let mut nodes = vec![node.clone()];
    let mut next = 0;
    while let Some(node) = nodes.get(next).cloned() {
        for child in node.adopted() {
            if !nodes.iter().any(|known| Arc::ptr_eq(known, &child)) {
                nodes.push(child);
            }
        }
        next += 1;
    }
    nodes
}
