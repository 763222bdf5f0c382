//! Nodes with other options, all at once: guests' requests are before or after the change, never in the middle of it.

use crate::engine::EngineHandle;
use crate::points;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::graph::reopen::Reopen;
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
    let _turn = registry.edit().await;
    let staged = graph.prepare_reopen(options)?;
    let mut nodes = Vec::new();
    staged.iter().for_each(|reopen| points::add(&mut nodes, reopen.node()));
    let grace = points::hold(registry.io(), &nodes, &mut || staged.iter().for_each(Reopen::commit)).await?;
    points::over(registry.io(), &grace).await;
    graph.conclude_reopen(registry.io(), staged).await;
    Ok(())
}
