//! Whether a mirror can be made of what was asked for; in QEMU's order and with its texts.

use super::{MirrorOptions, MirrorSync, Plan, Start};
use crate::backup::check::find;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::bitmaps::Tracked;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::{Driver, Node};
use tidemark_cbt::Granularity;

/// What is said of nodes that the job has for itself.
const BUSY: &str = "block device is in use by block job: mirror";
/// Bytes under way if nothing is said.
const BUF_SIZE: u64 = 16 << 20;
/// Bytes of one copy.
const PIECE: u64 = tidemark_backend::node::copy_before_write::PIECE_MAX;
/// The most copies at a time, whatever there is memory for.
const WORKERS_MAX: u64 = 64;
/// The largest chunk, in bytes.
const CHUNK_MAX: u32 = 64 << 20;

fn refuse<T>(text: impl Into<String>) -> Result<T, TransactionError> {
    Err(TransactionError::Text(text.into()))
}

/// Bytes of a cluster of the node, if it has such.
pub(super) fn cluster_size(node: &Node) -> Option<u64> {
    Tracked::cluster_size(node)
}

/// A node that is nobody's part, but perhaps that of what was opened for the job.
pub(crate) fn find_root(graph: &Graph, name: &str, opened: Option<&Arc<Node>>) -> Result<Arc<Node>, TransactionError> {
    let node = find(graph, name)?;
    let is_parent = |parent: &Arc<Node>| {
        let copies = match parent.driver() {
            Driver::CopyBeforeWrite(filter) => Arc::ptr_eq(filter.copy().target(), &node),
            _ => false,
        };
        let reads = parent.adopted().any(|below| Arc::ptr_eq(&below, &node));
        opened.is_none_or(|opened| !Arc::ptr_eq(opened, parent)) && (copies || reads)
    };
    // A job that has it is above it.
    if node.busy().is_some() || graph.nodes().iter().any(is_parent) {
        return refuse("Need a root block node");
    }
    Ok(node)
}

/// `opened` is the target if that was opened for the mirror.
pub(super) fn check(
    graph: &Arc<Graph>,
    options: &MirrorOptions,
    opened: Option<Arc<Node>>,
) -> Result<Plan, TransactionError> {
    let source = find_root(graph, &options.device, opened.as_ref())?;
    let target = find(graph, &options.target)?;
    check_granularity(options.granularity)?;
    graph.check_free(&target)?;
    let replaced = check_replaced(graph, &source, options.replaces.as_deref())?;
    let start = match options.sync {
        MirrorSync::Unsupported(sync) => return refuse(format!("Sync mode '{sync}' not supported")),
        MirrorSync::Top => Start::Above(source.unfiltered()),
        MirrorSync::Full => Start::All,
        MirrorSync::None => Start::Nothing,
    };
    let Ok(buf_size) = u64::try_from(options.buf_size) else { return refuse("Invalid parameter 'buf-size'") };
    if Arc::ptr_eq(&source.unfiltered(), &target.unfiltered()) {
        return refuse("Can't mirror node into itself");
    }
    let granularity = Granularity::new(u64::from(options.granularity));
    let buf_size = if buf_size == 0 { BUF_SIZE } else { buf_size };
    let workers = (buf_size / PIECE).clamp(1, WORKERS_MAX);
    Ok(Plan {
        granularity: granularity.unwrap_or_else(|| Granularity::default_for(cluster_size(&target))),
        workers_max: usize::try_from(workers).unwrap_or(1),
        replaced,
        start,
        reason: BUSY,
        on_source_error: options.on_source_error,
        on_target_error: options.on_target_error,
        unmap: options.unmap,
        copy_mode: options.copy_mode,
        grows: false,
        reopened: false,
        opened,
        between: Vec::new(),
        source,
        target,
    })
}

fn check_granularity(bytes: u32) -> Result<(), TransactionError> {
    match bytes {
        0 => Ok(()),
        512..=CHUNK_MAX if bytes.is_power_of_two() => Ok(()),
        512..=CHUNK_MAX => refuse("Parameter 'granularity' expects a power of 2"),
        _ => refuse("Parameter 'granularity' expects a value in range [512B, 64MB]"),
    }
}

/// What the target takes the place of: the source, or a node that its filters show as it is.
fn check_replaced(graph: &Graph, source: &Arc<Node>, name: Option<&str>) -> Result<Arc<Node>, TransactionError> {
    let Some(name) = name else { return Ok(source.clone()) };
    let Some(replaced) = graph.find(name) else {
        return refuse(format!("Failed to find node with node-name='{name}'"));
    };
    graph.check_free(&replaced)?;
    let unfiltered = source.unfiltered();
    let mut filters = source.chain().take_while(|node| node.is_filter()).chain([unfiltered]);
    if !filters.any(|node| Arc::ptr_eq(&node, &replaced)) {
        let source = source.name();
        return refuse(format!(
            "Cannot replace '{name}' by a node mirrored from '{source}', because it cannot be guaranteed that doing so \
             would not lead to an abrupt change of visible data"
        ));
    }
    if replaced.length() != source.length() {
        return refuse("cannot replace image with a mirror image of different size");
    }
    Ok(replaced)
}
