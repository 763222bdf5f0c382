//! What has changed on a node since a point in time, for those who copy it themselves.
//!
//! Asked between edits, when every bitmap has all that is its own: so an answer that names a point in time has all that
//! was written before it, and what was has landed.

use crate::engine::EngineHandle;
use crate::registry::Registry;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::bitmaps::{ChangeId, Changed, NotKnown};
use tidemark_backend::graph::Graph;
use tidemark_backend::node::Node;

/// Nanoseconds between two looks whether bitmaps are complete.
const LOOK_NS: u64 = 100_000;

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What has changed since the point in time of this name.
    Since(String),
    /// What the bitmap of this name marks.
    MarkedIn(String),
}

/// What has changed on a node of `graph`.
///
/// # Errors
/// Nobody knows; the text says what became of the bitmap that did, and what to do now.
pub fn changed(
    jobs: &EngineHandle,
    graph: &Arc<Graph>,
    node: &Arc<Node>,
    wanted: Wanted,
) -> Result<Changed, TransactionError> {
    let (graph, node) = (graph.clone(), node.clone());
    jobs.ask_async(async move |registry| run(&registry, &graph, &node, wanted).await)?
}

async fn run(
    registry: &Registry,
    graph: &Graph,
    node: &Arc<Node>,
    wanted: Wanted,
) -> Result<Changed, TransactionError> {
    let (_turn, io) = (registry.edit().await, registry.io());
    let tracking = node.points().tracking();
    // The end of a backup is no edit.
    while tracking.is_unsettled() {
        io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
    }
    let known = match wanted {
        Wanted::Since(id) => {
            let since: ChangeId = id.parse().map_err(|error| TransactionError::Text(format!("{error}")))?;
            tracking.changed_since(since, node.length())
        }
        Wanted::MarkedIn(bitmap) => tracking.marked_in(&bitmap, node.length()),
    };
    known.map_err(|reason| TransactionError::Text(text(graph, node, reason)))
}

/// Why nobody knows, and the way out.
fn text(graph: &Graph, node: &Arc<Node>, reason: NotKnown) -> String {
    let name = node.name();
    match reason {
        NotKnown::OfAnother(id) => match graph.nodes().iter().find(|node| node.points().tracking().gave(id)) {
            Some(other) => format!("Change ID '{id}' is of node '{}', not of node '{name}'", other.name()),
            None => format!(
                "Change ID '{id}' is of no node that is open, but of a node that was closed or a daemon that has ended: {}",
                instead(node)
            ),
        },
        NotKnown::Gap { .. } => format!("Node '{name}': {reason}; copy the whole disk"),
        NotKnown::NotYet(_) | NotKnown::Bitmap(_) => reason.to_string(),
    }
}

/// What knows more than this life of a node.
fn instead(node: &Node) -> String {
    match node.points().tracking().kept().as_slice() {
        [] => "copy the whole disk".to_owned(),
        kept => format!(
            "ask for what a persistent bitmap marks ('{}'), which is what has changed since it was added, cleared or \
             used up, or copy the whole disk",
            kept.join("', '")
        ),
    }
}
