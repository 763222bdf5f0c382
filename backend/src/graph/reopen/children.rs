//! The nodes below those that get other options: described with them, or others than before.

use super::{Change, options, unknown};
use crate::error::GraphError;
use crate::graph::moved::Moved;
use crate::graph::{self, Graph};
use crate::node::options::{Backing, ChildRef, DriverOptions};
use crate::node::{Driver, Node, NodeOptions};
use std::sync::Arc;

/// What a node is to one above it, and what is said of it now.
pub(super) type Described<'a> = (&'static str, Arc<Node>, &'a ChildRef);

impl Graph {
    /// A child that is described with its parent.
    pub(super) fn stage_child(
        &self,
        options: &NodeOptions,
        (role, child, reference): Described<'_>,
        staged: &mut Vec<Change>,
    ) -> Result<(), GraphError> {
        match reference {
            ChildRef::Inline(below) if !child.is_root() => {
                self.stage_reopen(&child, &graph::inherited(below, options), staged)
            }
            ChildRef::Inline(_) => Err(options::changed(&format!("{role}.driver"))),
            ChildRef::Name(name) if role != "file" && name != child.name() => Err(options::changed(role)),
            ChildRef::Name(_) => Ok(()),
        }
    }

    /// The other node that is to be `file` of this one.
    pub(super) fn other_file(
        &self,
        node: &Arc<Node>,
        wanted: &DriverOptions,
        staged: &[Change],
    ) -> Result<Option<Moved>, GraphError> {
        let name = match wanted {
            DriverOptions::Raw(raw) => &raw.file,
            DriverOptions::Throttle(throttle) => &throttle.file,
            DriverOptions::Qcow2(qcow2) => &qcow2.file,
            _ => return Ok(None),
        };
        let (ChildRef::Name(name), Some(now)) = (name, node.child()) else { return Ok(None) };
        let found = self.find_below(node, name, "file", staged)?;
        if Arc::ptr_eq(&found, &now) {
            return Ok(None);
        }
        if matches!(node.driver(), Driver::Qcow2(_)) && !show_the_same(&found, &now) {
            let (found, now) = (found.name(), now.name());
            return Err(GraphError::Options(format!(
                "Node '{found}' does not show what node '{now}' shows: the image of '{}' cannot move there while it is \
                 open",
                node.name()
            )));
        }
        Moved::new(Some(now), Some(found)).map(Some)
    }

    /// The other node that an image is to be over, or none.
    pub(super) fn other_backing(
        &self,
        node: &Arc<Node>,
        wanted: &DriverOptions,
        staged: &[Change],
    ) -> Result<Option<Moved>, GraphError> {
        let (Driver::Qcow2(image), DriverOptions::Qcow2(options)) = (node.driver(), wanted) else { return Ok(None) };
        let now = image.backing();
        let found = match &options.backing {
            Backing::FromHeader if now.is_some() || image.header().backing.is_some() => {
                return Err(GraphError::Options(format!("backing is missing for '{}'", node.name())));
            }
            Backing::FromHeader => return Ok(None),
            Backing::None => None,
            Backing::Node(ChildRef::Inline(_)) => return Err(options::changed("backing.driver")),
            Backing::Node(ChildRef::Name(name)) => Some(self.find_below(node, name, "backing", staged)?),
        };
        let same = match (&now, &found) {
            (Some(now), Some(found)) => Arc::ptr_eq(now, found),
            (None, None) => true,
            _ => false,
        };
        (!same).then(|| Moved::new(now, found)).transpose()
    }

    /// Refuses to lead a node elsewhere that somebody needs to stay where it is.
    pub(super) fn check_links(
        &self,
        node: &Arc<Node>,
        file: Option<&Moved>,
        backing: Option<&Moved>,
    ) -> Result<(), GraphError> {
        let refuse = |text: String| Err(GraphError::Options(text));
        if file.or(backing).is_none() {
            return Ok(());
        }
        if let Some(last) = backing.and_then(Moved::last)
            && self.filters_over(last).iter().any(|filter| filter.driver_name() == "commit_top")
        {
            return refuse(format!("Cannot replace implicit backing child of {}", node.name()));
        }
        let led = if matches!(node.driver(), Driver::Qcow2(_)) { backing } else { file };
        led.and_then(Moved::node).map_or(Ok(()), |below| node.check_over(below))?;
        if let Some(link) = self.frozen_below(node) {
            return refuse(format!("Cannot change frozen {link}"));
        }
        let moved = |(role, moved): (&str, Option<&Moved>)| Some((role.to_owned(), moved?.last()?.name().to_owned()));
        // What stands for a job is busy itself.
        let copied = node.busy().is_some() || self.filters_over(node).iter().any(|filter| filter.busy().is_some());
        let last = moved(("backing", backing)).or_else(|| moved(("file", file)));
        match last.filter(|_| copied) {
            Some((role, last)) => {
                refuse(format!("Cannot change frozen '{role}' link from '{}' to '{last}'", node.name()))
            }
            None => Ok(()),
        }
    }

    fn find_below(&self, node: &Arc<Node>, name: &str, role: &str, staged: &[Change]) -> Result<Arc<Node>, GraphError> {
        let found = self.find(name).ok_or_else(|| unknown(name))?;
        if reaches(&found, node, staged) {
            let (below, above) = (found.name(), node.name());
            let text = format!("Making '{below}' a {role} child of '{above}' would create a cycle");
            return Err(GraphError::Options(text));
        }
        Ok(found)
    }
}

/// Whether `to` is `from` or is or will be below it.
pub(super) fn reaches(from: &Arc<Node>, to: &Arc<Node>, staged: &[Change]) -> bool {
    let change = staged.iter().find(|change| Arc::ptr_eq(&change.node, from));
    let moved = change.into_iter().flat_map(|change| change.file_below.iter().chain(&change.backing));
    let below = moved.filter_map(|moved| moved.node().cloned()).chain(graph::children(from));
    Arc::ptr_eq(from, to) || below.into_iter().any(|child| reaches(&child, to, staged))
}

/// Changes of nodes below others before those of the others.
pub(super) fn below_first(mut staged: Vec<Change>) -> Vec<Change> {
    let mut sorted: Vec<Change> = Vec::new();
    while !staged.is_empty() {
        let lowest = |at: &usize| {
            let others = staged.iter().enumerate().filter(|(other, _)| other != at);
            !others.into_iter().any(|(_, other)| reaches(&staged[*at].node, &other.node, &staged))
        };
        // There are no cycles.
        let at = (0..staged.len()).find(lowest).unwrap_or(0);
        sorted.push(staged.remove(at));
    }
    sorted
}

/// Whether two nodes show the same bytes of the same storage.
fn show_the_same(one: &Arc<Node>, other: &Arc<Node>) -> bool {
    let [(one, start), (other, other_start)] = [one, other].map(|node| bottom(node.clone(), 0));
    Arc::ptr_eq(&one, &other) && start == other_start
}

/// Where a node's bytes are.
fn bottom(node: Arc<Node>, start: u64) -> (Arc<Node>, u64) {
    match (node.driver(), node.child()) {
        (Driver::Raw(raw), Some(child)) => bottom(child, start.saturating_add(raw.offset())),
        (_, Some(child)) if node.is_filter() => bottom(child, start),
        _ => (node, start),
    }
}
