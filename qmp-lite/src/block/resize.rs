//! What keeps a node from being resized: a point in time is as long as its source and its target are.
//!
//! Knows jobs by the filters that are listed for them. An image below another is as long as that one found it.

use std::sync::Arc;

use tidemark_backend::node::{Driver, Node};

use crate::context::Context;
use crate::error::QmpError;

/// Who uses a node: a node as one of its children, or nobody with a name.
struct User {
    parent: Option<Arc<Node>>,
    role: &'static str,
}

impl User {
    const NAMELESS: Self = Self { parent: None, role: "root" };

    fn of(parent: &Arc<Node>) -> Self {
        let role = if matches!(parent.driver(), Driver::BlkDebug(_)) { "image" } else { "file" };
        Self { parent: Some(parent.clone()), role }
    }

    fn describe(&self, node: &str) -> String {
        let user = self.parent.as_ref().map(|parent| format!("node '{}'", parent.name()));
        let user = user.unwrap_or_else(|| "an unnamed block device".to_owned());
        format!("{user} (uses node '{node}' as '{}' child)", self.role)
    }
}

/// Refuses to resize what jobs, `copy-before-write` nodes and exports over NBD use, in the words of QEMU, which knows
/// permissions. The nodes below change with it. Guests hear of a new length; clients of NBD cannot.
pub(super) fn check(context: &Context, node: &Arc<Node>) -> Result<(), QmpError> {
    let nodes = context.graph.resized_with(node, node.length());
    // What is below an image is the image's own.
    let own = nodes.iter().position(|(node, _)| matches!(node.driver(), Driver::Qcow2(_)));
    let mut asks = User::NAMELESS;
    let nodes: Vec<_> = nodes.into_iter().take(own.map_or(usize::MAX, |own| own + 1)).map(|(node, _)| node).collect();
    for node in &nodes {
        check_one(context, node, &asks, &nodes)?;
        asks = User::of(node);
    }
    Ok(())
}

/// `resized` are all that take another length.
fn check_one(context: &Context, node: &Arc<Node>, asks: &User, resized: &[Arc<Node>]) -> Result<(), QmpError> {
    node.check_resizable()?;
    context.graph.check_free(node)?;
    let exports = context.exports.list().into_iter().filter(|export| export.kind == "nbd");
    let exported = exports.map(|export| (User::NAMELESS, export.node));
    let filters = context.graph.nodes().into_iter().flat_map(|filter| match filter.driver() {
        Driver::CopyBeforeWrite(copying) => {
            let copy = copying.copy();
            let user = |role| User { parent: Some(filter.clone()), role };
            vec![(user("target"), copy.target().clone()), (user("file"), copy.source().clone())]
        }
        _ => Vec::new(),
    });
    // What is below the nodes of a job is as long as the job found it.
    let busy = |above: &Arc<Node>| above.busy().is_some() && !Arc::ptr_eq(above, node);
    let jobs = context.graph.nodes().into_iter().filter(busy).map(|above| (User::NAMELESS, above));
    // A window is inside what is below it, which only it may resize.
    let is_window = |above: &Arc<Node>| match above.driver() {
        Driver::Raw(raw) => raw.is_window() && !resized.iter().any(|resized| Arc::ptr_eq(resized, above)),
        _ => false,
    };
    let windows = context.graph.nodes().into_iter().filter(is_window);
    let windows = windows.filter_map(|above| Some((User::of(&above), above.child()?)));
    match exported.chain(filters).chain(jobs).chain(windows).find_map(|(user, child)| user_of(user, &child, node)) {
        Some(holds) => Err(conflict(node.name(), asks, &holds)),
        None => Ok(()),
    }
}

/// Who uses `node` on the way down from `user` through its `child`.
fn user_of(user: User, child: &Arc<Node>, node: &Arc<Node>) -> Option<User> {
    match Arc::ptr_eq(child, node) {
        true => Some(user),
        false => user_of(User::of(child), &child.child()?, node),
    }
}

fn conflict(node: &str, asks: &User, holds: &User) -> QmpError {
    QmpError::generic(format!(
        "Permission conflict on node '{node}': permissions 'resize' are both required by {} and unshared by {}.",
        asks.describe(node),
        holds.describe(node)
    ))
}
