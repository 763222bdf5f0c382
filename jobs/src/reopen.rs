//! Nodes with other options, all at once: guests' requests are before or after the change, never in the middle of it.

use crate::engine::EngineHandle;
use crate::points;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::{Node, NodeOptions, Released};
use tidemark_backend::reactor::Handle;

/// Gives nodes other options. Returns when all that was under way before has ended.
///
/// # Errors
/// With QEMU's texts; then nothing has changed.
pub fn reopen(jobs: &EngineHandle, graph: &Arc<Graph>, options: Vec<NodeOptions>) -> Result<(), TransactionError> {
    let graph = graph.clone();
    jobs.ask_async(async move |registry| run(&registry, &graph, &options).await)?
}

/// Has a node refuse writes, or take them; the caller has the registry's turn.
///
/// # Errors
/// With QEMU's texts; then nothing has changed.
pub(crate) async fn set_read_only(
    io: &Handle,
    graph: &Graph,
    node: &Arc<Node>,
    read_only: bool,
) -> Result<(), TransactionError> {
    change(io, graph, &[node.as_open(read_only)]).await
}

/// Has a node take writes; whether it refused them before, and is to do so again.
///
/// # Errors
/// As [`set_read_only`].
pub(crate) async fn make_writable(io: &Handle, graph: &Graph, node: &Arc<Node>) -> Result<bool, TransactionError> {
    let was_read_only = node.is_read_only();
    if was_read_only {
        set_read_only(io, graph, node, false).await?;
    }
    Ok(was_read_only)
}

/// Has a node refuse writes when a job is over that it took them for. What stands against it is logged.
pub(crate) async fn make_read_only_again(registry: &Registry, graph: &Graph, node: &Arc<Node>) {
    let _turn = registry.edit().await;
    if let Err(error) = set_read_only(registry.io(), graph, node, true).await {
        tracing::warn!(node = node.name(), "it still takes writes after a job: {error}");
    }
}

/// Says in the header of an image what is below it, as [`Node::name_backing`] does; the image may be read-only, and is so
/// again then. The caller has the registry's turn.
///
/// # Errors
/// With QEMU's texts.
pub(crate) async fn write_header(
    io: &Handle,
    graph: &Graph,
    image: &Arc<Node>,
    backing: Option<(String, Option<String>)>,
) -> Result<(), TransactionError> {
    let was_read_only = make_writable(io, graph, image).await?;
    let written = image.name_backing(io, backing).await;
    if was_read_only {
        set_read_only(io, graph, image, true).await?;
    }
    Ok(written?)
}

async fn run(registry: &Registry, graph: &Graph, options: &[NodeOptions]) -> Result<(), TransactionError> {
    let _turn = registry.edit().await;
    change(registry.io(), graph, options).await
}

async fn change(io: &Handle, graph: &Graph, options: &[NodeOptions]) -> Result<(), TransactionError> {
    let mut reopen = graph.prepare_reopen(options)?;
    let nodes = reopen.nodes().to_vec();
    // Whoever is waited for does not wait for a throttle, and images write their tables without delay.
    let _released = Released::of(&nodes);
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
