//! Internal snapshots in a transaction, and deleting them: the disk as it is at the transaction's point in time, kept in
//! its own image.
//!
//! Guests' writes wait from the point in time on until the part of the image that they are about is shared. A snapshot
//! that fails after that is undone; the command fails, and what else happened at that moment has happened.

use crate::action::InternalSnapshotOptions;
use crate::backup::check::{check_free, find};
use crate::engine::EngineHandle;
use crate::points;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use std::sync::Arc;
use std::time::SystemTime;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::qcow2::image::Image;
use tidemark_backend::node::qcow2::snapshot::take::Taking;
use tidemark_backend::node::qcow2::snapshot::{Description, Snapshot};
use tidemark_backend::node::{Driver, Node};
use tidemark_backend::reactor::Handle;

/// One snapshot on its way.
pub(crate) struct Internal {
    device: String,
    node: Arc<Node>,
    description: Description,
    taking: Option<Taking>,
}

fn refuse<T>(text: impl Into<String>) -> Result<T, TransactionError> {
    Err(TransactionError::Text(text.into()))
}

/// The node whose image has the snapshots of `node`: itself, or what a raw node shows of it.
fn keeper(node: &Arc<Node>) -> Option<Arc<Node>> {
    match node.driver() {
        Driver::Qcow2(_) => Some(node.clone()),
        Driver::Raw(_) => keeper(&node.child()?),
        _ => None,
    }
}

fn image(node: &Node) -> Option<&Image> {
    match node.driver() {
        Driver::Qcow2(image) => Some(image),
        _ => None,
    }
}

/// A node that no other node is above.
fn find_root(graph: &Graph, device: &str, covered: &[&Arc<Node>]) -> Result<Arc<Node>, TransactionError> {
    let node = find(graph, device)?;
    let is_below = |other: &Arc<Node>| other.adopted().any(|below| Arc::ptr_eq(&below, &node));
    match graph.nodes().iter().any(is_below) || covered.iter().any(|other| Arc::ptr_eq(other, &node)) {
        true => refuse("Need a root block node"),
        false => Ok(node),
    }
}

impl Internal {
    /// Makes room while guests go on. `others` are those of the same transaction; `below` are nodes that it puts images on.
    ///
    /// # Errors
    /// With QEMU's texts; nothing has changed.
    pub(crate) async fn prepare(
        io: &Handle,
        graph: &Graph,
        options: InternalSnapshotOptions,
        others: &[Self],
        below: &[&Arc<Node>],
    ) -> Result<Self, TransactionError> {
        let InternalSnapshotOptions { device, name } = options;
        let node = find_root(graph, &device, below)?;
        check_free(&node)?;
        if node.is_read_only() {
            return refuse(format!("Device '{device}' is read only"));
        }
        let unable = format!(
            "Block format '{}' used by device '{device}' does not support internal snapshots",
            node.driver_name()
        );
        let Some(node) = keeper(&node) else { return refuse(unable) };
        let Some(image) = image(&node) else { return refuse(unable) };
        if name.is_empty() {
            return refuse("Name is empty");
        }
        image.can_have_snapshots().map_err(unlisted)?;
        let is_other = |other: &Self| Arc::ptr_eq(&other.node, &node) && other.description.name == name;
        if image.snapshots().find_both(None, Some(&name)).is_some() || others.iter().any(is_other) {
            return refuse(format!("Snapshot with name '{name}' already exists on device '{device}'"));
        }
        let date = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let taking = image.begin_snapshot(io, node.points()).await.map_err(|error| failed(&name, &device, &error))?;
        Ok(Self { device, node: node.clone(), description: Description { name, date }, taking: Some(taking) })
    }

    /// What is to be held for it.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Inside the hold: writes wait.
    pub(crate) fn install(&self) {
        self.taking.iter().for_each(|taking| self.node.points().add_gate(taking.gate.clone()));
    }

    /// After grace: takes it.
    ///
    /// # Errors
    /// The storage's; there is no snapshot then.
    pub(crate) async fn take(mut self, io: &Handle) -> Result<(), TransactionError> {
        let (Some(taking), Some(image)) = (self.taking.take(), image(&self.node)) else { return Ok(()) };
        let gate = taking.gate.clone();
        let taken = image.take_snapshot(io, taking, &self.description, self.node.points()).await;
        let mut open = || self.node.points().remove_gate(&gate);
        points::hold_in_the_end(io, std::slice::from_ref(&self.node), &mut open).await;
        taken.map(drop).map_err(|error| failed(&self.description.name, &self.device, &error))
    }

    /// Nothing of it happened.
    pub(crate) async fn undo(mut self, io: &Handle) {
        if let (Some(taking), Some(image)) = (self.taking.take(), image(&self.node)) {
            image.abandon_snapshot(io, taking, self.node.points()).await;
        }
    }
}

fn unlisted(error: impl std::fmt::Display) -> TransactionError {
    TransactionError::Text(format!("Failed to get a snapshot list: {error}"))
}

fn failed(name: &str, device: &str, error: &dyn std::fmt::Display) -> TransactionError {
    TransactionError::Text(format!("Failed to create snapshot '{name}' on device '{device}': {error}"))
}

/// Deletes the snapshot of this id and this name, as far as they are said.
///
/// # Errors
/// With QEMU's texts.
pub fn delete(
    jobs: &EngineHandle,
    graph: &Arc<Graph>,
    device: String,
    id: Option<String>,
    name: Option<String>,
) -> Result<Snapshot, TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry| remove(&registry, &graph, &device, id.as_deref(), name.as_deref()).await)?
}

async fn remove(
    registry: &Registry,
    graph: &Graph,
    device: &str,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<Snapshot, TransactionError> {
    let _turn = registry.edit().await;
    let node = find_root(graph, device, &[])?;
    if id.is_none() && name.is_none() {
        return refuse("Name or id must be provided");
    }
    check_free(&node)?;
    let keeper = keeper(&node);
    let Some(image) = keeper.as_deref().and_then(image) else {
        return Err(unlisted("Operation not supported"));
    };
    image.can_have_snapshots().map_err(unlisted)?;
    if image.snapshots().find_both(id, name).is_none() {
        let [id, name] = [id, name].map(|text| text.unwrap_or("null"));
        return refuse(format!("Snapshot with id '{id}' and name '{name}' does not exist on device '{device}'"));
    }
    if node.is_read_only() {
        return refuse(format!("Device '{device}' is read only"));
    }
    let points = keeper.as_ref().unwrap_or(&node).points();
    let deleted = image.delete_snapshot(registry.io(), id, name, points).await;
    deleted.map_err(|error| {
        let shown = name.or(id).unwrap_or_default();
        TransactionError::Text(format!("Failed to delete snapshot '{shown}' on device '{device}': {error}"))
    })
}
