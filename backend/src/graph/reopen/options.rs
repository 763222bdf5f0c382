//! What of a node's options may be otherwise than it was opened with. Changes nothing.

use super::children::Described;
use crate::error::GraphError;
use crate::graph::inherited;
use crate::node::options::{ChildRef, Discard, DriverOptions};
use crate::node::qcow2::open::Options;
use crate::node::throttle::group_of;
use crate::node::{Driver, Node, NodeOptions};
use std::fmt::Debug;
use std::sync::Arc;

/// An option that has to stay as it is.
pub(super) fn changed(option: &str) -> GraphError {
    GraphError::Options(format!("Cannot change the option '{option}'"))
}

/// Refuses options whose change would need the node to be opened anew. Of an image: what the others come to.
///
/// # Errors
/// With QEMU's texts.
pub(super) fn check(node: &Arc<Node>, new: &NodeOptions) -> Result<Option<Options>, GraphError> {
    let old = node.options();
    let mut rules = vec![("force-share", old.force_share == new.force_share)];
    let mut image_options = None;
    match (&old.driver, &new.driver) {
        (DriverOptions::File(old), DriverOptions::File(new)) if old.device == new.device => {
            rules.extend([("filename", old.filename == new.filename), ("locking", old.locking == new.locking)]);
        }
        (DriverOptions::Raw(old), DriverOptions::Raw(new)) => {
            rules.push(("x-guard-format", old.guard_format == new.guard_format));
        }
        (DriverOptions::Null(old), DriverOptions::Null(new)) => rules.extend([
            ("size", old.size == new.size),
            ("latency-ns", old.latency_ns == new.latency_ns),
            ("read-zeroes", old.read_zeroes == new.read_zeroes),
        ]),
        (DriverOptions::Nbd(old), DriverOptions::Nbd(new)) => {
            rules.extend(old.difference(new).map(|option| (option, false)));
        }
        (DriverOptions::BlkDebug(old), DriverOptions::BlkDebug(new)) => rules.extend([
            ("align", old.align == new.align),
            ("config", old.config == new.config),
            ("inject-error", same(&old.inject_error, &new.inject_error)),
            ("set-state", same(&old.set_state, &new.set_state)),
            ("x-delay-ns", same(&old.delay, &new.delay)),
        ]),
        (DriverOptions::Throttle(_), DriverOptions::Throttle(new)) => drop(group_of(new)?),
        (DriverOptions::CopyOnRead(old), DriverOptions::CopyOnRead(new)) => {
            rules.push(("bottom", old.bottom == new.bottom));
        }
        (DriverOptions::Qcow2(old), DriverOptions::Qcow2(qcow2)) => {
            if let Driver::Qcow2(image) = node.driver() {
                let unmap = new.discard == Discard::Unmap;
                image_options = Some(qcow2.for_image(&image.header(), new.read_only, unmap)?);
            }
            rules.extend([
                ("data-file", qcow2.data_file.is_none() || old.data_file.is_some()),
                ("x-crash-safe", old.crash_safe == qcow2.crash_safe),
            ]);
        }
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
    rules.into_iter().find(|(_, same)| !same).map_or(Ok(image_options), |(option, _)| Err(changed(option)))
}

/// Whether two lists of rules say the same.
fn same<T: Debug>(old: &T, new: &T) -> bool {
    format!("{old:?}") == format!("{new:?}")
}

/// Refuses another window for a node that a job has for itself.
///
/// # Errors
/// [`GraphError::Busy`].
pub(super) fn check_window(node: &Arc<Node>, new: &NodeOptions) -> Result<(), GraphError> {
    let (old, busy) = (node.options(), node.busy());
    match (&old.driver, &new.driver, busy) {
        (DriverOptions::Raw(old), DriverOptions::Raw(new), Some(reason))
            if (old.offset, old.size) != (new.offset, new.size) =>
        {
            Err(GraphError::Busy { name: node.name().to_owned(), reason })
        }
        _ => Ok(()),
    }
}

/// These options, with the node below as it is now, if it was described with this one and is only named: it takes part in
/// what this one gets.
pub(super) fn described(node: &Arc<Node>, new: &NodeOptions) -> NodeOptions {
    let mut new = new.clone();
    let Some(child) = node.child().filter(|child| !child.is_root()) else { return new };
    if let Some(file) = new.driver.file_mut()
        && matches!(&*file, ChildRef::Name(name) if name == child.name())
    {
        *file = ChildRef::Inline(Box::new(without_inherited(node, &child)));
    }
    new
}

/// The options of a node as it is now, without what it has from the one above, unless it was reopened by itself.
fn without_inherited(above: &Node, child: &Arc<Node>) -> NodeOptions {
    let (above, now) = (above.options(), child.as_open(child.options().read_only));
    let Some(ChildRef::Inline(said)) = above.driver.file() else { return now };
    let inheritable = |of: &NodeOptions| {
        (of.read_only, of.auto_read_only, of.force_share, of.discard, of.cache_direct, of.cache_no_flush)
    };
    if inheritable(&inherited(said, &above)) != inheritable(&now) {
        return now;
    }
    let NodeOptions { node_name, detect_zeroes, driver, .. } = now;
    NodeOptions { node_name, detect_zeroes, driver, ..(**said).clone() }
}

/// The nodes below, by what they are to the node, each with what is said of it now.
pub(super) fn children<'a>(node: &Arc<Node>, options: &'a NodeOptions) -> Vec<Described<'a>> {
    let role = if matches!(options.driver, DriverOptions::BlkDebug(_)) { "image" } else { "file" };
    let file = options.driver.file().zip(node.child());
    let mut all: Vec<_> = file.map(|(reference, child)| (role, child, reference)).into_iter().collect();
    if let (DriverOptions::Qcow2(qcow2), Driver::Qcow2(image)) = (&options.driver, node.driver()) {
        all.extend(
            image.data_file().zip(qcow2.data_file.as_ref()).map(|(child, reference)| ("data-file", child, reference)),
        );
    }
    all
}
