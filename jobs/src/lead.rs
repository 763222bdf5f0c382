//! Others come to another node than before, while they go on.

use crate::points;
use crate::registry::Registry;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::graph::swap::Swap;
use tidemark_backend::node::Node;
use tidemark_backend::reactor::Handle;

/// Between two looks whether somebody has come meanwhile, in nanoseconds.
const LOOK_NS: u64 = 1_000_000;
/// Such looks, at most.
const LOOKS: u32 = 1000;

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

/// Takes what stood for a job off the list of nodes when nobody comes to it any more: whoever did comes to what is below
/// it. In a turn of [`Registry::edit`].
pub(crate) async fn lead_past(io: &Handle, graph: &Graph, filter: &Arc<Node>) {
    let mut stays = "somebody uses it who cannot be led elsewhere".to_owned();
    for _ in 0..LOOKS {
        if filter.retire() {
            return graph.remove_filter(filter);
        }
        let swap = filter.child().map(|child| graph.prepare_swap(filter, &child));
        match swap {
            Some(Ok(swap)) => lead(io, graph, swap).await,
            Some(Err(error)) => {
                stays = error.to_string();
                break;
            }
            None => break,
        }
        // Who had just found it comes now.
        io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
    }
    // It shows what is below it, and goes along when that is replaced, as it is listed.
    tracing::warn!("node '{}' stays after its job: {stays}", filter.name());
}
