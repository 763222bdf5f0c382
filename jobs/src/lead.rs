//! Others come to another node than before, while they go on.

use crate::points;
use crate::registry::Registry;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::graph::swap::Swap;
use tidemark_backend::node::Node;
use tidemark_backend::reactor::Handle;

/// Has a node take another one's place. In a turn of [`Registry::edit`], as the swap was prepared.
pub(crate) async fn lead(io: &Handle, graph: &Graph, mut swap: Swap) {
    let nodes = swap.nodes().to_vec();
    let grace = points::hold_in_the_end(io, &nodes, &mut || swap.commit()).await;
    points::over(io, &grace).await;
    swap.conclude(graph, io).await;
}

/// As [`lead_past`], for a point in time. One that never `began` ends in the turn in which it was made.
pub(crate) async fn lead_past_point(registry: &Registry, graph: &Graph, filter: &Arc<Node>, began: bool) {
    let _turn = if began { Some(registry.edit().await) } else { None };
    lead_past(registry.io(), graph, filter).await;
}

/// Takes what stood for a job off the list of nodes. Whoever came to it comes to what is below it; in a turn of
/// [`Registry::edit`].
pub(crate) async fn lead_past(io: &Handle, graph: &Graph, filter: &Arc<Node>) {
    // Nobody finds it any more.
    graph.remove_filter(filter);
    let Some(child) = filter.child().filter(|_| filter.is_used()) else { return };
    match graph.prepare_swap(filter, &child) {
        Ok(swap) => lead(io, graph, swap).await,
        // It shows what is below it as long as it is used.
        Err(error) => tracing::warn!("who uses node '{}' goes on doing so: {error}", filter.name()),
    }
}
