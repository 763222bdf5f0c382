//! What of a node's options may be otherwise than it was opened with. Changes nothing.

use crate::error::GraphError;
use crate::node::options::{ChildRef, DriverOptions};
use crate::node::{Driver, Node, NodeOptions};
use std::fmt::Debug;
use std::sync::Arc;

/// An option that has to stay as it is.
pub(super) fn changed(option: &str) -> GraphError {
    GraphError::Options(format!("Cannot change the option '{option}'"))
}

/// Refuses options whose change would need the node to be opened anew.
///
/// # Errors
/// With QEMU's texts.
pub(super) fn check(node: &Arc<Node>, new: &NodeOptions) -> Result<(), GraphError> {
    let old = node.options();
    let mut rules = vec![
        ("force-share", old.force_share == new.force_share),
        ("cache.direct", old.cache_direct.unwrap_or(false) == new.cache_direct.unwrap_or(false)),
    ];
    match (&old.driver, &new.driver) {
        (DriverOptions::File(old), DriverOptions::File(new)) if old.device == new.device => {
            rules.extend([("filename", old.filename == new.filename), ("locking", old.locking == new.locking)]);
        }
        (DriverOptions::Raw(old), DriverOptions::Raw(new)) => rules.extend([
            ("offset", old.offset == new.offset),
            ("size", old.size == new.size),
            ("x-guard-format", old.guard_format == new.guard_format),
        ]),
        (DriverOptions::Null(old), DriverOptions::Null(new)) => rules.extend([
            ("size", old.size == new.size),
            ("latency-ns", old.latency_ns == new.latency_ns),
            ("read-zeroes", old.read_zeroes == new.read_zeroes),
        ]),
        (DriverOptions::BlkDebug(old), DriverOptions::BlkDebug(new)) => rules.extend([
            ("align", old.align == new.align),
            ("config", old.config == new.config),
            ("inject-error", same(&old.inject_error, &new.inject_error)),
            ("set-state", same(&old.set_state, &new.set_state)),
            ("x-delay-ns", same(&old.delay, &new.delay)),
        ]),
        (DriverOptions::Qcow2(old), DriverOptions::Qcow2(new)) => rules.extend([
            ("cache-size", old.cache_size == new.cache_size),
            ("l2-cache-size", old.l2_cache_size == new.l2_cache_size),
            ("l2-cache-entry-size", old.l2_cache_entry_size == new.l2_cache_entry_size),
            ("refcount-cache-size", old.refcount_cache_size == new.refcount_cache_size),
            ("pass-discard-request", old.pass_discard_request == new.pass_discard_request),
            ("data-file", new.data_file.is_none() || old.data_file.is_some()),
            ("encrypt.format", old.encrypt == new.encrypt),
        ]),
        (
            DriverOptions::CopyBeforeWrite(_) | DriverOptions::SnapshotAccess(_),
            DriverOptions::CopyBeforeWrite(_) | DriverOptions::SnapshotAccess(_),
        ) => {
            let (driver, name) = (node.driver_name(), node.name());
            return Err(GraphError::Options(format!(
                "Block format '{driver}' used by node '{name}' does not support reopening files"
            )));
        }
        _ => return Err(changed("driver")),
    }
    rules.into_iter().find(|(_, same)| !same).map_or(Ok(()), |(option, _)| Err(changed(option)))
}

/// Whether two lists of rules say the same.
fn same<T: Debug>(old: &T, new: &T) -> bool {
    format!("{old:?}") == format!("{new:?}")
}

/// The nodes below, by what they are to the node, each with what is said of it now.
pub(super) fn children<'a>(
    node: &'a Arc<Node>,
    options: &'a NodeOptions,
) -> Vec<(&'static str, &'a Arc<Node>, &'a ChildRef)> {
    let file = match &options.driver {
        DriverOptions::Raw(raw) => Some(("file", &raw.file)),
        DriverOptions::BlkDebug(debug) => Some(("image", &debug.image)),
        DriverOptions::Qcow2(qcow2) => Some(("file", &qcow2.file)),
        _ => None,
    };
    let mut all: Vec<_> =
        file.zip(node.child()).map(|((role, reference), child)| (role, child, reference)).into_iter().collect();
    if let (DriverOptions::Qcow2(qcow2), Driver::Qcow2(image)) = (&options.driver, node.driver()) {
        all.extend(
            image.data_file().zip(qcow2.data_file.as_ref()).map(|(child, reference)| ("data-file", child, reference)),
        );
    }
    all
}

/// Whether the node is to refuse writes.
///
/// # Errors
/// It is written to and shall not be, or its storage was opened so that it cannot be.
pub(super) fn read_only(node: &Arc<Node>, options: &NodeOptions) -> Result<bool, GraphError> {
    let name = node.name();
    let fixed = match node.driver() {
        Driver::File(file) => file.read_only(),
        Driver::Qcow2(image) => image.is_read_only(),
        _ => false,
    };
    let read_only = options.read_only || (options.auto_read_only && fixed);
    if read_only && !node.is_read_only() && node.has_writers() {
        return Err(GraphError::Options(format!("Read-only block node '{name}' cannot support read-write users")));
    }
    if !read_only && fixed {
        return Err(GraphError::Options(format!(
            "Node '{name}' was opened read-only and stays so: close it and add it again to write to it"
        )));
    }
    Ok(read_only)
}
