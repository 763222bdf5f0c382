//! Nodes with other options, all at once: guests' requests are before or after the change, never in the middle of it.

use crate::engine::EngineHandle;
use crate::points;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::NodeOptions;

/// Gives nodes other options. Returns when all that was under way before has ended.
///
/// # Errors
/// With QEMU's texts; then nothing has changed.
pub fn reopen(jobs: &EngineHandle, graph: &Arc<Graph>, options: Vec<NodeOptions>) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry| run(&registry, &graph, &options).await)?
}

async fn run(registry: &Registry, graph: &Graph, options: &[NodeOptions]) -> Result<(), TransactionError> {
    let (_turn, io) = (registry.edit().await, registry.io());
    let mut reopen = graph.prepare_reopen(options)?;
    let nodes = reopen.nodes().to_vec();
    if reopen.must_lock_blocks() {
        let grace = points::hold(io, &nodes, &mut || reopen.lock_blocks()).await?;
        points::over(io, &grace).await;
    }
    reopen.begin(io).await?;
    match points::hold(io, &nodes, &mut || reopen.commit()).await {
        Ok(grace) => {
            points::over(io, &grace).await;
            graph.conclude_reopen(io, reopen).await;
            Ok(())
        }
        Err(error) => {
            reopen.undo(io).await;
            Err(error.into())
        }
    }
}
