//! Whether what a point in time reads and what it writes are different storage. Knows the nodes below each, in QEMU's
//! words for permissions.

use crate::error::GraphError;
use crate::node::{Driver, Node};
use std::sync::Arc;

/// Refuses a target that the source reaches, or the other way round. `filter` is the name of the node that copies from
/// one to the other.
///
/// # Errors
/// A permission conflict on the first node that both reach.
pub fn check_apart(source: &Arc<Node>, target: &Arc<Node>, filter: &str) -> Result<(), GraphError> {
    for (node, reader) in with_parents(source) {
        let Some((_, writer)) = with_parents(target).find(|(other, _)| Arc::ptr_eq(&node, other)) else { continue };
        let name = node.name();
        let user = |parent: Option<Arc<Node>>, role: &str| match parent {
            Some(parent) => format!("node '{}' (uses node '{name}' as '{}' child)", parent.name(), edge(&parent)),
            None => format!("node '{filter}' (uses node '{name}' as '{role}' child)"),
        };
        let (writer, reader) = (user(writer, "target"), user(reader, "file"));
        return Err(GraphError::Options(format!(
            "Permission conflict on node '{name}': permissions 'write' are both required by {writer} and unshared by \
             {reader}."
        )));
    }
    Ok(())
}

/// A node and those below it, each with the one above it.
fn with_parents(node: &Arc<Node>) -> impl Iterator<Item = (Arc<Node>, Option<Arc<Node>>)> + use<> {
    std::iter::successors(Some((node.clone(), None)), |(node, _)| Some((node.child()?, Some(node.clone()))))
}

/// What QEMU calls the edge from a node to the one below.
fn edge(parent: &Node) -> &'static str {
    if matches!(parent.driver(), Driver::BlkDebug(_)) { "image" } else { "file" }
}
