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
    /// Makes and opens what has to be, while guests go on. Nothing of the disk changes yet.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub(crate) async fn prepare(
        registry: &Registry,
        graph: &Arc<Graph>,
        options: SnapshotOptions,
    ) -> Result<Self, TransactionError> {
        let node = graph.find(&options.node).ok_or(TransactionError::Text(options.missing))?;
        match options.overlay {
            SnapshotOverlay::Node(name) => {
                let missing = || TransactionError::Text(format!("Cannot find device='{name}' nor node-name='{name}'"));
                let image = graph.find(&name).ok_or_else(missing)?;
                Ok(Self { overlay: graph.prepare_overlay(&node, &image)?, opened: false })
            }
            SnapshotOverlay::File(new) => {
                check_name(graph, &new)?;
                graph.check_free(&node)?;
                let (below, making) = (node.clone(), graph.clone());
                let opened = registry.io().aside(move || making.open_overlay(&below, &new)).await;
                let image =
                    opened.ok_or_else(|| TransactionError::Text("Cannot make the snapshot's image".into()))??;
                match graph.prepare_overlay(&node, &image) {
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

    /// Nothing of it happened. A file that was made stays.
    pub(crate) async fn undo(self, io: &Handle, graph: &Arc<Graph>) {
        let Self { overlay, opened } = self;
        let image = overlay.image().clone();
        drop(overlay);
        if opened {
            opened::let_go(io, graph, image).await;
        }
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
