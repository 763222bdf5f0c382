//! Nodes of a chain as commands name them, and whether a job may have them; in QEMU's words.

use crate::backup::check::{check_free, find};
use crate::transaction::TransactionError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::copy_before_write::Filter;
use tidemark_backend::node::{Driver, Node};

pub(crate) fn refuse<T>(text: impl Into<String>) -> Result<T, TransactionError> {
    Err(TransactionError::Text(text.into()))
}

/// The node of a name that nothing else can be.
pub(crate) fn node(graph: &Graph, name: &str) -> Result<Arc<Node>, TransactionError> {
    let text = || TransactionError::Text(format!("Cannot find device='' nor node-name='{name}'"));
    graph.find(name).ok_or_else(text)
}

/// The node of a name, above which there is nothing but exports.
pub(crate) fn root_node(graph: &Graph, name: &str) -> Result<Arc<Node>, TransactionError> {
    let node = find(graph, name)?;
    let target = |filter: &Filter| Arc::ptr_eq(filter.copy().target(), &node);
    let is_above = |other: &Arc<Node>| {
        other.adopted().any(|child| Arc::ptr_eq(&child, &node))
            || matches!(other.driver(), Driver::CopyBeforeWrite(filter) if target(filter))
    };
    if node.busy().is_some() || graph.nodes().iter().any(is_above) {
        return refuse("Need a root block node");
    }
    Ok(node)
}

/// Whether `below` is `node` or one of its chain.
pub(crate) fn contains(node: &Arc<Node>, below: &Arc<Node>) -> bool {
    node.chain().any(|other| Arc::ptr_eq(&other, below))
}

/// The image below `node` that is in a file of this name: as it was opened, or as the image above names it.
pub(crate) fn find_image(node: &Arc<Node>, name: &str) -> Option<Arc<Node>> {
    let images: Vec<_> = node.chain().filter(|node| !node.is_filter()).collect();
    let same = |one: &Path, other: &Path| match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    };
    let is_named = |pair: &&[Arc<Node>]| {
        let [above, image] = pair else { return false };
        let named = above.named_backing().map(|(file, _)| file);
        let directory = above.file_name().map(PathBuf::from).and_then(|path| path.parent().map(Path::to_owned));
        let opened = image.file_name();
        named.as_deref() == Some(name)
            || opened.is_some_and(|opened| {
                let relative = directory.map(|directory| directory.join(name));
                opened == name || relative.is_some_and(|path| same(&path, Path::new(&opened)))
            })
    };
    let found = images.windows(2).find(|pair| is_named(pair))?;
    found.get(1).cloned()
}

/// The image directly over `base` in the chain of `node`.
pub(crate) fn overlay(node: &Arc<Node>, base: &Arc<Node>) -> Option<Arc<Node>> {
    let base = base.unfiltered();
    let images: Vec<_> = node.chain().filter(|node| !node.is_filter()).collect();
    let found = images.windows(2).find(|pair| pair.get(1).is_some_and(|below| Arc::ptr_eq(below, &base)))?;
    found.first().cloned()
}

/// The images of a chain from `node` on, without filters.
pub(crate) fn images(node: &Arc<Node>) -> Vec<Arc<Node>> {
    node.chain().filter(|node| !node.is_filter()).collect()
}

/// Refuses a chain from `node` on, up to `end` and without it, if a job has part of it for itself. What stands for a
/// job is above its node, which it counts with, but for the first.
pub(crate) fn check_chain(graph: &Graph, node: &Arc<Node>, end: Option<&Arc<Node>>) -> Result<(), TransactionError> {
    let is_end = |node: &Arc<Node>| end.is_some_and(|end| Arc::ptr_eq(end, node));
    for (number, node) in node.chain().take_while(|node| !is_end(node)).enumerate() {
        if number > 0 {
            graph.filters_over(&node).iter().try_for_each(|filter| check_free(filter))?;
        }
        check_free(&node)?;
    }
    Ok(())
}
