//! Whether a commit can be made of what was asked for; in QEMU's order and with its texts.

use super::CommitOptions;
use crate::backup::check::check_free;
use crate::chain::{check_chain, contains, find_image, images, node, overlay, refuse, root_node};
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::Node;

/// What was found of a commit below the topmost image.
pub(super) struct Checked {
    /// The topmost node of the chain.
    pub device: Arc<Node>,
    /// The uppermost image that is committed.
    pub top: Arc<Node>,
    /// The last image above the base.
    pub last: Arc<Node>,
    /// The image that gets what others have.
    pub base: Arc<Node>,
}

/// What was found.
pub(super) enum Found {
    /// The topmost image is committed, or one that somebody writes to.
    Active { top: Arc<Node>, base: Arc<Node>, between: Vec<Arc<Node>> },
    /// One below it is.
    Intermediate(Checked),
}

pub(super) fn check(graph: &Graph, options: &CommitOptions) -> Result<Found, TransactionError> {
    let device = root_node(graph, &options.device)?;
    let top = top(graph, &device, options)?;
    let base = base(graph, &top, options)?;
    check_chain(graph, &top, base.below().as_ref())?;
    if Arc::ptr_eq(&top, &base) {
        return refuse("cannot commit an image into itself");
    }
    let (image, base_image) = (top.unfiltered(), base.unfiltered());
    let is_topmost = Arc::ptr_eq(&image, &device.unfiltered());
    if is_topmost || has_writer(&top) {
        if options.backing_file.is_some() {
            let why = if is_topmost { "is the active layer" } else { "has a writer on it" };
            return refuse(format!("'backing-file' specified, but 'top' {why}"));
        }
        check_frozen(graph, &top, &base)?;
        let between = images(&image).into_iter().skip(1);
        let between = between.take_while(|node| !Arc::ptr_eq(node, &base_image)).collect();
        return Ok(Found::Active { top, base, between });
    }
    if let Some(above) = overlay(&device, &image) {
        check_free(&above)?;
    }
    let last = overlay(&image, &base_image).unwrap_or_else(|| image.clone());
    Ok(Found::Intermediate(Checked { device, top, last, base }))
}

/// Refuses a chain of which a filter needs the links.
pub(super) fn check_frozen(graph: &Graph, top: &Arc<Node>, base: &Arc<Node>) -> Result<(), TransactionError> {
    match (graph.frozen_above(top), graph.frozen_between(top, base)) {
        (Some(link), _) => refuse(format!("Cannot change '{}' link to '{}'", link.role(), top.name())),
        (None, Some(link)) => refuse(format!("Cannot change {link}")),
        (None, None) => Ok(()),
    }
}

/// Whether somebody writes to a node.
fn has_writer(node: &Arc<Node>) -> bool {
    !node.is_read_only() && node.is_written()
}

/// The uppermost image that is committed.
fn top(graph: &Graph, device: &Arc<Node>, options: &CommitOptions) -> Result<Arc<Node>, TransactionError> {
    match (&options.top_node, &options.top) {
        (Some(_), Some(_)) => refuse("'top-node' and 'top' are mutually exclusive"),
        (Some(name), None) => {
            let top = node(graph, name)?;
            match contains(device, &top) {
                true => Ok(top),
                false => refuse(format!("'{name}' is not in this backing file chain")),
            }
        }
        (None, Some(name)) if device.file_name().as_deref() == Some(name) => Ok(device.clone()),
        (None, Some(name)) => {
            let missing = || TransactionError::Text(format!("Top image file {name} not found"));
            find_image(device, name).ok_or_else(missing)
        }
        (None, None) => Ok(device.clone()),
    }
}

/// The image that gets what others have.
fn base(graph: &Graph, top: &Arc<Node>, options: &CommitOptions) -> Result<Arc<Node>, TransactionError> {
    match (&options.base_node, &options.base) {
        (Some(_), Some(_)) => refuse("'base-node' and 'base' are mutually exclusive"),
        (Some(name), None) => {
            let base = node(graph, name)?;
            match contains(top, &base) {
                true => Ok(base),
                false => refuse(format!("'{name}' is not in this backing file chain")),
            }
        }
        (None, Some(name)) => {
            let missing = || TransactionError::Text(format!("Can't find '{name}' in the backing chain"));
            find_image(top, name).ok_or_else(missing)
        }
        (None, None) => Ok(images(top).pop().unwrap_or_else(|| top.clone())),
    }
}
