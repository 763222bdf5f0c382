//! Nodes that were opened for what uses them: by a snapshot, for a job, or because a header names them.

use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::Node;
use tidemark_backend::reactor::Handle;

/// Closes such a node, and those below that only it uses, unless somebody uses it.
pub(crate) async fn let_go(io: &Handle, graph: &Arc<Graph>, node: Arc<Node>) {
    let graph = graph.clone();
    // Without a thread for it the node stays open, which does no harm.
    let _closed = io.aside(move || graph.let_go(node)).await;
}

/// As [`let_go`], of several.
pub(crate) async fn let_go_all(io: &Handle, graph: &Arc<Graph>, nodes: impl IntoIterator<Item = Arc<Node>>) {
    for node in nodes {
        let_go(io, graph, node).await;
    }
}
