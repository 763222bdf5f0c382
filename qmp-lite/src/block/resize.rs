//! What keeps a node from being resized: a point in time is as long as its source and its target are.
//!
//! Knows jobs by the filters that are listed for them. An image below another is as long as that one found it.

use std::sync::Arc;

use tidemark_backend::error::GraphError;
use tidemark_backend::node::{Driver, Node};

use crate::context::Context;
use crate::error::QmpError;

/// Refuses to resize what jobs and `copy-before-write` nodes use, in the words of QEMU, which knows permissions.
/// The nodes below change with it.
pub(super) fn check(context: &Context, node: &Arc<Node>) -> Result<(), QmpError> {
    let nodes = context.graph.resized_with(node, node.length());
    // What is below an image is the image's own.
    let own = nodes.iter().position(|(node, _)| matches!(node.driver(), Driver::Qcow2(_)));
    nodes.iter().take(own.map_or(nodes.len(), |own| own + 1)).try_for_each(|(node, _)| check_one(context, node))
}

fn check_one(context: &Context, node: &Arc<Node>) -> Result<(), QmpError> {
    node.check_resizable()?;
    if let Some(reason) = node.busy() {
        return Err(GraphError::Busy { name: node.name().to_owned(), reason }.into());
    }
    check_backing(context, node)?;
    for filter in context.graph.nodes() {
        let Driver::CopyBeforeWrite(copying) = filter.driver() else { continue };
        let copy = copying.copy();
        for (child, role) in [(copy.target(), "target"), (copy.source(), "file")] {
            if let Some((parent, role)) = user(&filter, child, role, node) {
                return Err(conflict(node.name(), parent.name(), role));
            }
        }
    }
    Ok(())
}

/// Refuses what concerns a node as a whole while it is below an image.
pub(super) fn check_backing(context: &Context, node: &Arc<Node>) -> Result<(), QmpError> {
    let is_above = |other: &Arc<Node>| match other.driver() {
        Driver::Qcow2(image) => image.backing().is_some_and(|backing| Arc::ptr_eq(&backing, node)),
        _ => false,
    };
    let Some(above) = context.graph.nodes().into_iter().find(is_above) else { return Ok(()) };
    let (name, above) = (node.name(), above.name());
    Err(QmpError::generic(format!("Node '{name}' is busy: node is used as backing hd of '{above}'")))
}

/// Whose child `node` is on the way down from `parent` through its `child`, and as what.
fn user(
    parent: &Arc<Node>,
    child: &Arc<Node>,
    role: &'static str,
    node: &Arc<Node>,
) -> Option<(Arc<Node>, &'static str)> {
    if Arc::ptr_eq(child, node) {
        return Some((parent.clone(), role));
    }
    let role = if matches!(child.driver(), Driver::BlkDebug(_)) { "image" } else { "file" };
    user(child, &child.child()?, role, node)
}

fn conflict(node: &str, parent: &str, role: &str) -> QmpError {
    QmpError::generic(format!(
        "Permission conflict on node '{node}': permissions 'resize' are both required by an unnamed block device \
         (uses node '{node}' as 'root' child) and unshared by node '{parent}' (uses node '{node}' as '{role}' child)."
    ))
}
