//! Whether a stream can be made of what was asked for; in QEMU's order and with its texts.

use super::StreamOptions;
use crate::backup::check::find;
use crate::chain::{check_chain, contains, find_image, images, node, overlay, refuse};
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::{Driver, Node};

/// What was found.
pub(super) struct Checked {
    /// What gets what others have.
    pub image: Arc<Node>,
    /// The last image to copy from; the same if there is nothing to copy.
    pub last: Arc<Node>,
    /// What it is to be over then, if it was named.
    pub base: Option<Arc<Node>>,
}

pub(super) fn check(graph: &Graph, options: &StreamOptions) -> Result<Checked, TransactionError> {
    for (one, other, names) in [
        (&options.base, &options.base_node, ["base", "base-node"]),
        (&options.base, &options.bottom, ["base", "bottom"]),
        (&options.bottom, &options.base_node, ["bottom", "base-node"]),
    ] {
        if one.is_some() && other.is_some() {
            return refuse(format!("'{}' and '{}' cannot be specified at the same time", names[0], names[1]));
        }
    }
    let device = find(graph, &options.device)?;
    let base = base(graph, &device, options)?;
    let bottom = options.bottom.as_ref().map(|name| bottom(graph, &device, name)).transpose()?;
    let end = bottom.as_ref().map_or_else(|| base.clone(), |bottom| bottom.below());
    check_chain(graph, &device, end.as_ref())?;
    if base.is_none() && options.backing_file.is_some() {
        return refuse("backing file specified, but streaming the entire chain");
    }
    let image = device.unfiltered();
    let last = match (&bottom, &base) {
        (Some(bottom), _) => bottom.clone(),
        (None, Some(base)) => overlay(&image, base).unwrap_or_else(|| image.clone()),
        (None, None) => images(&image).pop().unwrap_or_else(|| image.clone()),
    };
    check_links(graph, &image, &last)?;
    check_image(graph, &image)?;
    check_frozen(graph, &device, &last)?;
    Ok(Checked { image, last, base })
}

/// The image that it is to be over.
fn base(graph: &Graph, device: &Arc<Node>, options: &StreamOptions) -> Result<Option<Arc<Node>>, TransactionError> {
    if let Some(name) = &options.base {
        let missing = || TransactionError::Text(format!("Can't find '{name}' in the backing chain"));
        return Ok(Some(find_image(device, name).ok_or_else(missing)?));
    }
    let Some(name) = &options.base_node else { return Ok(None) };
    let base = node(graph, name)?;
    if Arc::ptr_eq(&base, device) || !contains(device, &base) {
        return refuse(format!("Node '{name}' is not a backing image of '{}'", options.device));
    }
    Ok(Some(base))
}

fn bottom(graph: &Graph, device: &Arc<Node>, name: &str) -> Result<Arc<Node>, TransactionError> {
    let bottom = node(graph, name)?;
    if bottom.is_filter() {
        return refuse(format!("Node '{name}' is a filter, use a non-filter node as 'bottom'"));
    }
    if !contains(device, &bottom) {
        return refuse(format!("Node '{name}' is not in a chain starting from '{}'", device.name()));
    }
    Ok(bottom)
}

/// Refuses a chain of which a commit changes a link when it ends.
fn check_links(graph: &Graph, image: &Arc<Node>, last: &Arc<Node>) -> Result<(), TransactionError> {
    let mut all = images(image).into_iter();
    let part = all.by_ref().take_while(|node| !Arc::ptr_eq(node, last)).count();
    let below = images(image).into_iter().skip(1).take(part + 1);
    for filter in below.flat_map(|node| graph.filters_over(&node)) {
        if filter.driver_name() == "commit_top" {
            return refuse(format!("Cannot freeze 'backing' link to '{}'", filter.name()));
        }
    }
    Ok(())
}

/// Refuses a chain of which a filter needs the links.
fn check_frozen(graph: &Graph, device: &Arc<Node>, last: &Arc<Node>) -> Result<(), TransactionError> {
    let image = device.unfiltered();
    match (graph.frozen_between(device, last), graph.frozen_above(&image)) {
        (Some(link), _) if image.is_read_only() => refuse(format!("Cannot change {link}")),
        (Some(link), _) => refuse(format!("Could not create node: Cannot change {link}")),
        (None, Some(link)) => {
            refuse(format!("Could not replace node: Cannot change '{}' link to '{}'", link.role(), image.name()))
        }
        (None, None) => Ok(()),
    }
}

/// Only an image can have something of its own, and nobody but it changes its file.
fn check_image(graph: &Graph, image: &Arc<Node>) -> Result<(), TransactionError> {
    let over = |other: &Arc<Node>| match other.driver() {
        Driver::Qcow2(above) => Arc::ptr_eq(&above.file(), image),
        _ => false,
    };
    match graph.nodes().into_iter().find(over) {
        Some(above) => refuse(format!(
            "Permission conflict on node '{0}': permissions 'resize' are both required by node '{1}' (uses node '{0}' as \
             'file' child) and unshared by an unnamed block device (uses node '{0}' as 'root' child).",
            image.name(),
            above.name()
        )),
        None => Ok(()),
    }
}
