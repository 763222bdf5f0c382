//! Checkpoints of change journals: now and then, and when disks are idle, so that little is over-reported after a crash.
//!
//! Bitmaps are stored while guests write; a hold of a node is all that they notice. One image at a time, between edits.

use crate::points;
use crate::registry::Registry;
use std::slice;
use std::sync::{Arc, Weak};
use tidemark_backend::graph::Graph;
use tidemark_backend::node::qcow2::image::Image;
use tidemark_backend::node::{Driver, Node};
use tidemark_backend::reactor::Handle;

/// Nanoseconds between two checkpoints of an image that is written to.
pub const INTERVAL_NS: u64 = 30_000_000_000;

/// Makes checkpoints of the images of `graph` as long as it is there. For the job thread.
pub async fn run(registry: Registry, graph: Weak<Graph>, interval: u64) {
    loop {
        let io = registry.io();
        io.sleep_until(io.read_clock().saturating_add(interval)).await;
        let Some(nodes) = graph.upgrade().map(|graph| graph.nodes()) else { return };
        for node in nodes {
            checkpoint(&registry, &node).await;
        }
    }
}

/// A checkpoint of a node's image, if its journal has something.
pub async fn checkpoint(registry: &Registry, node: &Arc<Node>) {
    let Driver::Qcow2(image) = node.driver() else { return };
    let Some(journal) = image.changes().journal().filter(|journal| journal.areas().count() > 0) else { return };
    let _turn = registry.edit().await;
    let io = registry.io();
    if let Some(turning) = image.turn_changes(io, &journal).await {
        let mut edit = || {
            turning.take_effect();
            node.keep_changes();
        };
        if points::hold(io, slice::from_ref(node), &mut edit).await.is_err() {
            return;
        }
    }
    image.store_changes(io, node.points()).await;
}

/// What bitmaps of these nodes are now outlives a crash when this returns.
pub(crate) async fn save(io: &Handle, nodes: &[Arc<Node>]) {
    for node in nodes {
        if let Driver::Qcow2(image) = node.driver() {
            Image::save_changes(image, io, node.points()).await;
        }
    }
}
