//! Nodes of another length: their bitmaps follow, those of the nodes below that are resized with them too.
//!
//! Bitmaps grow before their node does and shrink after it, so that no write lies beyond them.

use crate::checkpoint;
use crate::engine::EngineHandle;
use crate::points;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::bitmaps::Resize;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::changes::{ChangeJournal, Turning};
use tidemark_backend::node::qcow2::create::Preallocation;
use tidemark_backend::node::{Driver, Node};

/// Changes a node's length, down to its file, and that of the bitmaps on the way: new blocks are clean. An image that
/// becomes longer takes so much space for them.
///
/// # Errors
/// A bitmap is in use, or the node cannot be resized; then nothing has changed.
pub fn resize(
    jobs: &EngineHandle,
    graph: &Arc<Graph>,
    node: &Arc<Node>,
    length: (u64, Preallocation),
) -> Result<(), TransactionError> {
    let (graph, node) = (graph.clone(), node.clone());
    jobs.ask_async(async move |registry| run(&registry, &graph, &node, length).await)?
}

async fn run(
    registry: &Registry,
    graph: &Graph,
    node: &Arc<Node>,
    length: (u64, Preallocation),
) -> Result<(), TransactionError> {
    let _turn = registry.edit().await;
    change(registry, graph, node, length).await
}

/// As [`resize`], in a turn of [`Registry::edit`].
///
/// # Errors
/// As there.
pub(crate) async fn change(
    registry: &Registry,
    graph: &Graph,
    node: &Arc<Node>,
    (size, space): (u64, Preallocation),
) -> Result<(), TransactionError> {
    let nodes = graph.resized_with(node, size);
    // Made before anything changes: memory is there when it is needed.
    let grow = prepare(&nodes, |old, new| (new > old).then_some(new))?;
    let shrink = prepare(&nodes, |old, new| (new < old).then_some(new))?;
    let back = prepare(&nodes, |old, new| (new > old).then_some(old))?;
    extend(registry, &nodes, grow).await?;
    if let Err(error) = graph.resize_with(registry.io(), node, size, space).await {
        follow(registry, back, &[]).await?;
        return Err(error.into());
    }
    follow(registry, shrink, &[]).await?;
    let nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
    checkpoint::save(registry.io(), &nodes).await;
    Ok(())
}

/// The bitmaps of a node, made for another length.
type Prepared = (Arc<Node>, Resize);

/// Bitmaps for the nodes that `length` has one for, of the old and the new.
fn prepare(
    nodes: &[(Arc<Node>, u64)],
    length: impl Fn(u64, u64) -> Option<u64>,
) -> Result<Vec<Prepared>, TransactionError> {
    let wanted = nodes.iter().filter_map(|(node, new)| Some((node, length(node.length(), *new)?)));
    let made =
        wanted.map(|(node, len)| Ok((node.clone(), Resize::prepare(node.points().tracking(), node.length(), len)?)));
    made.collect()
}

/// Bitmaps of nodes that grow, and what their change journals cover.
async fn extend(
    registry: &Registry,
    nodes: &[(Arc<Node>, u64)],
    prepared: Vec<Prepared>,
) -> Result<(), TransactionError> {
    let grown = nodes.iter().filter(|(node, size)| *size > node.length());
    let journals: Vec<_> = grown.filter_map(|(node, size)| Some((node, journal(node)?, *size))).collect();
    let mut turnings = Vec::new();
    for (node, journal, size) in &journals {
        if let Driver::Qcow2(image) = node.driver() {
            turnings.extend(image.resize_changes(registry.io(), journal, *size).await);
        }
    }
    follow(registry, prepared, &turnings).await
}

fn journal(node: &Arc<Node>) -> Option<Arc<ChangeJournal>> {
    match node.driver() {
        Driver::Qcow2(image) => image.changes().journal(),
        _ => None,
    }
}

async fn follow(
    registry: &Registry,
    prepared: Vec<Prepared>,
    turnings: &[Turning<'_>],
) -> Result<(), TransactionError> {
    if prepared.is_empty() {
        return Ok(());
    }
    let nodes: Vec<_> = prepared.iter().map(|(node, _)| node.clone()).collect();
    let unsettled: Vec<_> = nodes.iter().map(|node| node.points().tracking().count_unsettled()).collect();
    let (mut prepared, mut left) = (Some(prepared), Vec::new());
    let mut edit = || {
        for (node, resize) in prepared.take().into_iter().flatten() {
            left.extend(resize.commit(node.points().tracking()));
        }
        turnings.iter().for_each(Turning::take_effect);
        nodes.iter().for_each(|node| node.keep_changes());
    };
    let grace = points::hold(registry.io(), &nodes, &mut edit).await?;
    points::over(registry.io(), &grace).await;
    left.iter().for_each(|(new, old)| new.merge(old));
    drop(unsettled);
    Ok(())
}
