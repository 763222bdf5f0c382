//! Other options for nodes that are open: all of them are looked at before the first takes effect.
//!
//! Guests run. What has to be read or written for it comes first, files before the images in them, and is undone if
//! something fails. Then everything takes effect in one hold, in which nothing can fail. Texts are QEMU's.

mod access;
mod children;
mod options;
mod revive;

use super::Graph;
use super::moved::Moved;
use crate::bitmaps::Resize;
use crate::error::GraphError;
use crate::io::Memory;
use crate::node::file::reopen::Reopened;
use crate::node::options::DriverOptions;
use crate::node::qcow2::open::Options;
use crate::node::{Driver, Kind, Node, NodeOptions, Request};
use crate::reactor::Handle;
use access::Step;
use children::reaches;
use std::sync::Arc;

/// How long copies of a filter that was taken away are waited for, in nanoseconds.
const COPIES_NS: u64 = 2_000_000_000;
/// Between two looks at them.
const LOOK_NS: u64 = 500_000;

/// A node with the options it is to have.
struct Change {
    node: Arc<Node>,
    options: NodeOptions,
    read_only: bool,
    /// Of a file: what was opened instead.
    file: Option<Reopened>,
    /// Of an image: what it is to be opened with.
    image: Option<Options>,
    /// The other node that it will have below it for `file`.
    file_below: Option<Moved>,
    /// Of an image: the other one for `backing`, or none.
    backing: Option<Moved>,
    /// The other length that it will have, and its bitmaps for that.
    length: Option<(u64, Option<Resize>)>,
}

/// Nodes that are about to have other options.
pub struct Reopen {
    /// Those below before those above.
    changes: Vec<Change>,
    /// All nodes there are.
    all: Vec<Arc<Node>>,
    /// These nodes and all above them.
    above: Vec<Arc<Node>>,
    steps: Vec<Step>,
}

impl Graph {
    /// Looks whether nodes can have these options, and opens what they need. Nothing changes before [`Reopen::begin`].
    ///
    /// # Errors
    /// With QEMU's texts.
    pub fn prepare_reopen(&self, options: &[NodeOptions]) -> Result<Reopen, GraphError> {
        let named = |options: &NodeOptions| {
            let name = options.node_name.as_ref();
            let name = name.ok_or_else(|| GraphError::Options("node-name not specified".into()))?;
            self.find(name).ok_or_else(|| GraphError::NotFound(name.clone()))
        };
        let nodes = options.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        let mut changes = Vec::new();
        for (node, options) in nodes.iter().zip(options) {
            self.stage_reopen(node, options, &mut changes)?;
        }
        let mut changes = children::below_first(changes);
        for at in 0..changes.len() {
            access::decide(&mut changes, at)?;
        }
        access::check(&changes)?;
        for change in &mut changes {
            change.enter()?;
        }
        let all = self.nodes();
        let reached = |node: &&Arc<Node>| changes.iter().any(|change| reaches(node, &change.node, &[]));
        let above = all.iter().filter(reached).cloned().collect();
        Ok(Reopen { changes, all, above, steps: Vec::new() })
    }

    /// A node, and the nodes below that are described with it.
    fn stage_reopen(
        &self,
        node: &Arc<Node>,
        options: &NodeOptions,
        staged: &mut Vec<Change>,
    ) -> Result<(), GraphError> {
        let options = &options::described(node, options, staged);
        let image = options::check(node, options)?;
        let backing = self.other_backing(node, &options.driver, staged)?;
        for (role, child, reference) in options::children(node, options) {
            self.stage_child(options, (role, child, reference), staged)?;
        }
        let file_below = self.other_file(node, &options.driver, staged)?;
        self.check_links(node, file_below.as_ref(), backing.as_ref())?;
        options::check_window(node, options)?;
        // Of a node that is named twice the last counts, and what was said only the first time.
        staged.retain(|other| !Arc::ptr_eq(&other.node, node));
        let (node, options) = (node.clone(), options.clone());
        let read_only = options.read_only.is_on();
        staged.push(Change { node, options, read_only, file: None, image, file_below, backing, length: None });
        Ok(())
    }

    /// After all that has begun before it has ended: what is no longer written to is stable, and what is no longer used
    /// may be closed.
    pub async fn conclude_reopen(&self, io: &Handle, reopen: Reopen) {
        for change in &reopen.changes {
            if change.read_only {
                flush_or_log(io, &change.node).await;
            }
            if let Driver::File(file) = change.node.driver() {
                file.unlock_blocks();
            }
        }
        for change in reopen.changes {
            let Change { node, file_below, backing, length, .. } = change;
            if length.is_some() {
                self.tell(&node);
            }
            for last in file_below.into_iter().chain(backing).filter_map(|moved| moved.leave(&node)) {
                copied(io, &last).await;
                self.remove_unused(last);
            }
        }
        reopen.above.iter().for_each(|node| self.follow_length(node));
    }

    /// A node that is as long as the one below may have to be longer or shorter.
    pub(super) fn follow_length(&self, node: &Arc<Node>) {
        let length = match node.driver() {
            Driver::Raw(raw) if !raw.has_fixed_size() => raw.child().length().saturating_sub(raw.offset()),
            Driver::BlkDebug(filter) => filter.child().length(),
            Driver::Throttle(filter) => filter.child().length(),
            Driver::Passing(filter) => filter.child().length(),
            _ => return,
        };
        if length != node.length() {
            node.set_length(length);
            self.tell(node);
        }
    }

    /// Closes a node that nobody uses, unless somebody else has to.
    pub(super) fn remove_unused(&self, node: Arc<Node>) {
        if !node.is_root() && node.retire() {
            self.remove(node, &self.ring());
        }
    }
}

impl Change {
    /// Takes into use what the node needs.
    fn enter(&mut self) -> Result<(), GraphError> {
        self.file_below.as_mut().map_or(Ok(()), |moved| moved.enter_file(&self.node))?;
        self.backing.as_mut().map_or(Ok(()), Moved::enter_backing)?;
        if let Some((length, bitmaps)) = &mut self.length {
            self.node.check_resizable()?;
            let fresh = Resize::prepare(self.node.points().tracking(), self.node.length(), *length);
            *bitmaps = Some(fresh.map_err(|error| GraphError::Options(error.to_string()))?);
        }
        Ok(())
    }

    fn commit(&mut self) {
        let Self { node, options, read_only, .. } = self;
        node.change_settings(options, *read_only);
        match (node.driver(), &options.driver) {
            (Driver::Raw(raw), DriverOptions::Raw(options)) => {
                // Its bytes are others then.
                if self.file_below.is_some() || raw.offset() != options.offset {
                    node.points().tracking().forget_past();
                }
                raw.change(self.file_below.as_ref().and_then(|moved| moved.node().cloned()), options);
            }
            (Driver::Throttle(filter), DriverOptions::Throttle(options)) => {
                filter.change(options);
                if let Some(child) = self.file_below.as_ref().and_then(Moved::node) {
                    node.points().tracking().forget_past();
                    filter.lead(child);
                }
            }
            (Driver::Qcow2(image), _) => {
                let file = self.file_below.as_ref().and_then(Moved::node);
                file.into_iter().for_each(|file| image.change_file(file.clone()));
                self.image.iter().for_each(|options| image.change_options(options));
                if let Some(backing) = &self.backing {
                    image.change_backing(backing.node().cloned());
                    node.points().tracking().forget_past();
                }
                node.points().tracking().set_read_only(*read_only);
                node.keep_changes();
            }
            _ => {}
        }
        self.file_below.iter_mut().chain(&mut self.backing).for_each(Moved::settle);
        if let Some((length, bitmaps)) = &mut self.length {
            node.set_length(*length);
            for (into, from) in bitmaps.take().map(|fresh| fresh.commit(node.points().tracking())).unwrap_or_default() {
                into.merge(&from);
            }
        }
    }
}

impl Reopen {
    /// The nodes that are changed, and all above them: to be held for [`Reopen::commit`].
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.above
    }

    /// The options take effect; inside [`crate::node::points::hold`] of [`Reopen::nodes`].
    pub fn commit(&mut self) {
        self.changes.iter_mut().for_each(Change::commit);
        self.steps.clear();
    }
}

/// Waits until a filter that nobody comes through any more has made the copies that it was making. If that takes long it is
/// in use all the while, and the caller goes on.
async fn copied(io: &Handle, node: &Arc<Node>) {
    let Driver::CopyBeforeWrite(filter) = node.driver() else { return };
    let deadline = io.read_clock().saturating_add(COPIES_NS);
    let mut quiet = 0;
    // Who was about to begin one when the others had ended has begun it by the second look.
    while quiet < 2 && io.read_clock() < deadline {
        quiet = if filter.copy().is_quiet() { quiet + 1 } else { 0 };
        io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
    }
}

async fn flush(io: &Handle, node: &Arc<Node>) -> Result<(), crate::error::IoError> {
    let flush = Request { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: Memory::empty() };
    node.handle(io, flush).await.1
}

async fn flush_or_log(io: &Handle, node: &Arc<Node>) {
    if let Err(error) = flush(io, node).await {
        let node = node.name();
        tracing::error!(node, "could not write back what was written before it became read-only: {error}");
    }
}

fn unknown(name: &str) -> GraphError {
    GraphError::Options(format!("Cannot find device='' nor node-name='{name}'"))
}
