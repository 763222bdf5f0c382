//! Other options for nodes that are open: all of them are looked at before the first takes effect.
//!
//! What can change is what requests look up each time: whether a node may be written to, discards, zeroes, flushes, and
//! the node below an image. A file stays open as it is, so that what was opened read-only stays so. Texts are QEMU's.

mod options;

use super::Graph;
use crate::error::GraphError;
use crate::io::Memory;
use crate::node::options::{Backing, ChildRef, DriverOptions};
use crate::node::{Driver, Hold, Kind, Node, NodeOptions, Request};
use crate::reactor::Handle;
use std::cell::Cell;
use std::sync::Arc;

/// A node with the options it is to have.
pub struct Reopen {
    node: Arc<Node>,
    options: NodeOptions,
    read_only: bool,
    /// Of an image whose node below changes: the one it will have.
    backing: Option<Option<Arc<Node>>>,
    /// What keeps others from that one.
    hold: Option<Hold>,
    /// As long as it is not below the image yet: nobody closes it.
    claim: Option<Claim>,
}

/// A node that is about to have one more parent.
struct Claim {
    node: Arc<Node>,
    kept: Cell<bool>,
}

impl Claim {
    fn of(node: &Arc<Node>) -> Self {
        node.adopt();
        Self { node: node.clone(), kept: Cell::new(false) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept.get() {
            self.node.abandon();
        }
    }
}

impl Graph {
    /// Looks whether nodes can have these options. Nothing changes before [`Reopen::commit`].
    ///
    /// # Errors
    /// With QEMU's texts.
    pub fn prepare_reopen(&self, options: &[NodeOptions]) -> Result<Vec<Reopen>, GraphError> {
        let named = |options: &NodeOptions| {
            let name = options.node_name.as_ref();
            let name = name.ok_or_else(|| GraphError::Options("node-name not specified".into()))?;
            self.find(name).ok_or_else(|| GraphError::NotFound(name.clone()))
        };
        let nodes = options.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        let mut staged = Vec::new();
        for (node, options) in nodes.iter().zip(options) {
            self.stage_reopen(node, options, &mut staged)?;
        }
        for reopen in &mut staged {
            if let Some(Some(backing)) = &reopen.backing {
                reopen.claim = Some(Claim::of(backing));
                reopen.hold = Some(Hold::of_reader(backing)?);
            }
        }
        Ok(staged)
    }

    /// A node, and the nodes below that are described with it.
    fn stage_reopen(
        &self,
        node: &Arc<Node>,
        options: &NodeOptions,
        staged: &mut Vec<Reopen>,
    ) -> Result<(), GraphError> {
        if let Some(reason) = node.busy() {
            return Err(GraphError::Busy { name: node.name().to_owned(), reason });
        }
        options::check(node, options)?;
        for (role, child, reference) in options::children(node, options) {
            match reference {
                ChildRef::Name(name) if name == child.name() => {}
                ChildRef::Name(name) => {
                    self.find(name).ok_or_else(|| unknown(name))?;
                    return Err(GraphError::Options(format!(
                        "Node '{}' keeps its child '{role}' as long as it is open: it cannot be another one",
                        node.name()
                    )));
                }
                ChildRef::Inline(below) if !child.is_root() => {
                    self.stage_reopen(child, &super::inherited(below, options), staged)?;
                }
                ChildRef::Inline(_) => return Err(options::changed(&format!("{role}.driver"))),
            }
        }
        let backing = match (node.driver(), &options.driver) {
            (Driver::Qcow2(image), DriverOptions::Qcow2(qcow2)) => {
                let now = image.backing();
                let wanted = self.other_backing(node, now, &qcow2.backing, staged)?;
                let named = image.header().backing.is_some();
                if matches!(qcow2.backing, Backing::FromHeader) && (now.is_some() || named) {
                    return Err(GraphError::Options(format!("backing is missing for '{}'", node.name())));
                }
                if wanted.is_some() && !image.can_change_backing() {
                    return Err(GraphError::Options(format!(
                        "The backing node of '{}' has changed too often: close the node and add it again",
                        node.name()
                    )));
                }
                wanted
            }
            _ => None,
        };
        let read_only = options::read_only(node, options)?;
        // Of a node that is named twice the last counts.
        staged.retain(|other| !Arc::ptr_eq(&other.node, node));
        staged.push(Reopen {
            node: node.clone(),
            options: options.clone(),
            read_only,
            backing,
            hold: None,
            claim: None,
        });
        Ok(())
    }

    /// The node that an image is to be over, if that is another one than now.
    fn other_backing(
        &self,
        node: &Arc<Node>,
        now: Option<&Arc<Node>>,
        wanted: &Backing,
        staged: &[Reopen],
    ) -> Result<Option<Option<Arc<Node>>>, GraphError> {
        match wanted {
            Backing::FromHeader => Ok(None),
            Backing::None => Ok(now.is_some().then_some(None)),
            Backing::Node(ChildRef::Inline(_)) => Err(options::changed("backing.driver")),
            Backing::Node(ChildRef::Name(name)) => {
                let found = self.find(name).ok_or_else(|| unknown(name))?;
                if reaches(&found, node, staged) {
                    let (below, above) = (found.name(), node.name());
                    let text = format!("Making '{below}' a backing child of '{above}' would create a cycle");
                    return Err(GraphError::Options(text));
                }
                Ok(now.is_none_or(|now| !Arc::ptr_eq(now, &found)).then_some(Some(found)))
            }
        }
    }

    /// After all that has begun before it has ended: what is no longer written to is stable, and what is no longer used
    /// may be closed.
    pub async fn conclude_reopen(&self, io: &Handle, staged: Vec<Reopen>) {
        for Reopen { node, read_only, backing, hold, .. } in staged {
            if read_only {
                flush(io, &node).await;
            }
            let (Some(_), Driver::Qcow2(image)) = (backing, node.driver()) else { continue };
            if let Some(last) = image.let_go_of_backing(hold)
                && !last.is_root()
                && last.users() == 0
            {
                self.remove(last, &self.ring());
            }
        }
    }
}

impl Reopen {
    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The options take effect; inside [`crate::node::points::hold`] of the node.
    pub fn commit(&self) {
        self.node.change_settings(&self.options, self.read_only);
        if let (Some(backing), Driver::Qcow2(image)) = (&self.backing, self.node.driver()) {
            image.change_backing(backing.clone());
            self.node.points().tracking().forget_past();
            self.claim.iter().for_each(|claim| claim.kept.set(true));
        }
    }
}

async fn flush(io: &Handle, node: &Arc<Node>) {
    let flush = Request { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: Memory::empty() };
    if let Err(error) = node.handle(io, flush).await.1 {
        tracing::error!(
            node = node.name(),
            "could not write back what was written before it became read-only: {error}"
        );
    }
}

fn unknown(name: &str) -> GraphError {
    GraphError::Options(format!("Cannot find device='' nor node-name='{name}'"))
}

/// Whether `to` is `from` or will be below it.
fn reaches(from: &Arc<Node>, to: &Arc<Node>, staged: &[Reopen]) -> bool {
    let other = staged.iter().find(|reopen| Arc::ptr_eq(&reopen.node, from)).and_then(|reopen| reopen.backing.clone());
    let below = other.into_iter().flatten().chain(super::children(from));
    Arc::ptr_eq(from, to) || below.into_iter().any(|child| reaches(&child, to, staged))
}
