//! A node of another length: its bitmaps follow.
//!
//! They grow before the node does and shrink after it, so that no write lies beyond them.

use crate::engine::EngineHandle;
use crate::points;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use std::slice;
use std::sync::Arc;
use tidemark_backend::bitmaps::Resize;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::Node;

/// Changes a node's length, down to its file, and that of its bitmaps: new blocks are clean.
///
/// # Errors
/// A bitmap is in use, or the node cannot be resized; then nothing has changed.
pub fn resize(jobs: &EngineHandle, graph: &Arc<Graph>, node: &Arc<Node>, size: u64) -> Result<(), TransactionError> {
    let (graph, node) = (graph.clone(), node.clone());
    jobs.ask_async(async move |registry| run(&registry, &graph, &node, size).await)?
}

async fn run(registry: &Registry, graph: &Graph, node: &Arc<Node>, size: u64) -> Result<(), TransactionError> {
    let _turn = registry.edit().await;
    let old = node.length();
    let tracking = node.points().tracking();
    // Made before anything changes: memory is there when it is needed.
    let (new, back) = (Resize::prepare(tracking, size)?, Resize::prepare(tracking, old)?);
    if size < old {
        graph.resize(node, size)?;
        return follow(registry, node, new).await;
    }
    follow(registry, node, new).await?;
    if let Err(error) = graph.resize(node, size) {
        follow(registry, node, back).await?;
        return Err(error.into());
    }
    Ok(())
}

async fn follow(registry: &Registry, node: &Arc<Node>, resize: Resize) -> Result<(), TransactionError> {
    let (mut resize, mut left) = (Some(resize), Vec::new());
    let mut edit = || {
        if let Some(resize) = resize.take() {
            left = resize.commit(node.points().tracking());
        }
    };
    let grace = points::hold(registry.io(), slice::from_ref(node), &mut edit).await?;
    points::over(registry.io(), &grace).await;
    left.iter().for_each(|(new, old)| new.merge(old));
    Ok(())
}
