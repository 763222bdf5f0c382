//! What of a node's options may be otherwise than it was opened with. Changes nothing.

use super::Change;
use super::children::Described;
use crate::error::GraphError;
use crate::node::options::{Backing, ChildRef, Discard, DriverOptions, Setting};
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
                image_options = Some(qcow2.for_image(&image.header(), new.read_only.is_on(), unmap)?);
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
/// what this one gets. What was said before in the same command of either holds.
pub(super) fn described(node: &Arc<Node>, new: &NodeOptions, staged: &[Change]) -> NodeOptions {
    let mut new = said_twice(new, find(staged, node));
    let Some(child) = node.child().filter(|child| !child.is_root()) else { return new };
    if let Some(file) = new.driver.file_mut()
        && matches!(&*file, ChildRef::Name(name) if name == child.name())
    {
        let now = child.as_it_is();
        let below = find(staged, &child).map(|said| said.clone().with_settings(&now, Setting::under));
        *file = ChildRef::Inline(Box::new(below.unwrap_or(now)));
    }
    new
}

/// The options that a node is to have already.
fn find<'a>(staged: &'a [Change], node: &Arc<Node>) -> Option<&'a NodeOptions> {
    staged.iter().find(|change| Arc::ptr_eq(&change.node, node)).map(|change| &change.options)
}

/// The options of a node that is named again: what was said only the first time holds.
fn said_twice(new: &NodeOptions, before: Option<&NodeOptions>) -> NodeOptions {
    let Some(before) = before else { return new.clone() };
    let mut new = new.clone().with_settings(before, Setting::or_said);
    if let (DriverOptions::Qcow2(new), DriverOptions::Qcow2(before)) = (&mut new.driver, &before.driver)
        && matches!(new.backing, Backing::FromHeader)
    {
        new.backing = before.backing.clone();
    }
    new
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
