//! External snapshots in a transaction: images are put on top of nodes at the transaction's point in time.
//!
//! Guests wait for no storage. What they have written is flushed once before the point in time, so that little is left,
//! and once after it; between, guests' flushes are flushes of both nodes. Then the node below is made read-only, which
//! stores its bitmaps.

use crate::action::{SnapshotOptions, SnapshotOverlay};
use crate::checkpoint;
use crate::opened;
use crate::points;
use crate::registry::Registry;
use crate::reopen;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::graph::backing_name::Coming;
use tidemark_backend::graph::new_overlay::NewOverlay;
use tidemark_backend::graph::overlay::Overlay;
use tidemark_backend::node::points::grace;
use tidemark_backend::node::{Node, Request, Root};
use tidemark_backend::reactor::Handle;

/// One snapshot.
pub(crate) struct Snapshot {
    overlay: Overlay,
    /// Whether the image was opened for this.
    opened: bool,
}

impl Snapshot {
    /// Makes and opens what has to be, while guests go on. Nothing of the disk changes yet. `others` are those before it
    /// in the transaction: what their images are put on has one above it. [`Snapshot::lead`] has to follow.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub(crate) async fn prepare(
        registry: &Registry,
        graph: &Arc<Graph>,
        options: SnapshotOptions,
        others: &[Self],
    ) -> Result<Self, TransactionError> {
        let node = graph.find(&options.node).ok_or(TransactionError::Text(options.missing))?;
        let mut coming = Coming::default();
        others.iter().for_each(|Self { overlay, .. }| coming.add(overlay.image(), overlay.node()));
        Self::over(registry, graph, &node, options.overlay, coming).await
    }

    /// Of the snapshots of a transaction the last is prepared: whoever was to come to the node below it comes to its image.
    ///
    /// # Errors
    /// Somebody may not come there; then all of them can only be withdrawn.
    pub(crate) fn lead(graph: &Graph, snapshots: &mut [Self]) -> Result<(), TransactionError> {
        let Some((last, others)) = snapshots.split_last_mut() else { return Ok(()) };
        let mut below = last.node().clone();
        for Self { overlay, .. } in others.iter_mut().rev() {
            if Arc::ptr_eq(overlay.image(), &below) {
                overlay.lead_to(graph, last.overlay.image())?;
                below = overlay.node().clone();
            }
        }
        Ok(())
    }

    /// The node below.
    pub(crate) fn node(&self) -> &Arc<Node> {
        self.overlay.node()
    }

    async fn over(
        registry: &Registry,
        graph: &Arc<Graph>,
        node: &Arc<Node>,
        overlay: SnapshotOverlay,
        coming: Coming,
    ) -> Result<Self, TransactionError> {
        if let Some(above) = coming.above(node) {
            let (name, above) = (node.name(), above.name());
            return Err(TransactionError::Text(format!(
                "Node '{name}' is busy: node is used as backing hd of '{above}'"
            )));
        }
        graph.check_free(node)?;
        match overlay {
            SnapshotOverlay::Node(name) => {
                let missing = || TransactionError::Text(format!("Cannot find device='{name}' nor node-name='{name}'"));
                let image = graph.find(&name).ok_or_else(missing)?;
                Ok(Self { overlay: graph.prepare_overlay(node, &image)?, opened: false })
            }
            SnapshotOverlay::File(new) => {
                check_name(graph, &new)?;
                let (below, making) = (node.clone(), graph.clone());
                let opened = registry.io().aside(move || making.open_overlay(&below, &new, &coming)).await;
                let image =
                    opened.ok_or_else(|| TransactionError::Text("Cannot make the snapshot's image".into()))??;
                match graph.prepare_overlay(node, &image) {
                    Ok(overlay) => Ok(Self { overlay, opened: true }),
                    Err(error) => {
                        opened::let_go(registry.io(), graph, image).await;
                        Err(error.into())
                    }
                }
            }
        }
    }

    /// What is to be held for it.
    pub(crate) fn nodes(&self) -> &[Arc<Node>] {
        self.overlay.nodes()
    }

    /// Makes most of what was written stable, so that little has to be afterwards.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) async fn flush(&self, io: &Handle) -> Result<(), TransactionError> {
        let node = self.overlay.node();
        let flushed = Root::new(node).handle(io, Request::flush()).await.1;
        flushed.map_err(|error| TransactionError::Text(format!("Failed to flush node '{}': {error}", node.name())))
    }

    /// Inside the hold: guests write to the image.
    pub(crate) fn install(&mut self) {
        self.overlay.commit();
    }

    /// Right after the hold.
    pub(crate) fn settle(&self) {
        self.overlay.settle(grace(std::slice::from_ref(self.overlay.node())));
    }

    /// After grace: what is below becomes stable and read-only. A disk whose storage fails then goes on failing its
    /// guests' flushes.
    pub(crate) async fn conclude(self, registry: &Registry, graph: &Arc<Graph>) {
        let (io, node, image) = (registry.io(), self.overlay.node().clone(), self.overlay.image().clone());
        if let Err(error) = self.flush(io).await {
            tracing::error!("{error}: flushes of node '{}' fail until that works", image.name());
            return self.overlay.conclude(graph, io).await;
        }
        let held = self.overlay.nodes().to_vec();
        let grace = points::hold_in_the_end(io, &held, &mut || self.overlay.part()).await;
        points::over(io, &grace).await;
        self.overlay.conclude(graph, io).await;
        checkpoint::save(io, std::slice::from_ref(&node)).await;
        if let Err(error) = reopen::set_read_only(io, graph, &node, true).await {
            tracing::warn!("node '{}' below a snapshot is not made read-only: {error}", node.name());
        }
        // Of a disk without an export nobody uses it.
        opened::let_go(io, graph, image).await;
    }

    /// Nothing of it happened. What was opened for it is for the caller to let go of, when others of the transaction do
    /// not lead there any more. A file that was made stays.
    pub(crate) fn withdraw(self) -> Option<Arc<Node>> {
        self.opened.then(|| self.overlay.image().clone())
    }
}

fn check_name(graph: &Graph, new: &NewOverlay) -> Result<(), TransactionError> {
    let refuse = |text: &str| Err(TransactionError::Text(text.to_owned()));
    match &new.node_name {
        None if new.needs_name => refuse("New overlay node-name missing"),
        Some(name) if graph.find(name).is_some() => refuse("New overlay node-name already in use"),
        _ => Ok(()),
    }
}
