//! An active commit: what guests see of a chain comes into an image of it, and then they use that one.
//!
//! The same as a mirror of the topmost image into the base, of what the images above the base have. The base grows to the
//! length of the topmost one.

use super::{CopyMode, Mirror, Plan, Start};
use crate::context::OnError;
use crate::job::{JobKind, JobOptions};
use crate::registry::Registry;
use crate::reopen;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::Node;
use tidemark_cbt::Granularity;

/// What is said of nodes that the job has for itself.
const BUSY: &str = "block device is in use by block job: commit";
/// Copies at a time.
const WORKERS_MAX: usize = 16;

/// An active commit whose arguments were checked.
pub(crate) struct ActiveCommit {
    /// The job's id, unchecked.
    pub job_id: String,
    /// The topmost image of the chain, which guests use.
    pub top: Arc<Node>,
    /// The image that gets what those above it have.
    pub base: Arc<Node>,
    /// The nodes between the two, those above before those below.
    pub between: Vec<Arc<Node>>,
    /// A name for what stands for the job among the nodes.
    pub filter_node_name: Option<String>,
    /// Bytes per second, 0 for no limit.
    pub speed: i64,
    /// About reads and writes.
    pub on_error: OnError,
    /// Whether the result takes effect by itself.
    pub auto_finalize: bool,
    /// Whether the job is forgotten by itself.
    pub auto_dismiss: bool,
}

/// Makes the job and starts it; to be called in a turn of [`Registry::edit`]. The base takes writes from now on, if it did
/// not: until the job ends without a result, and for good when guests use it.
///
/// # Errors
/// With QEMU's texts; then nothing has happened.
pub(crate) async fn start(
    registry: &Registry,
    graph: &Arc<Graph>,
    options: ActiveCommit,
) -> Result<(), TransactionError> {
    let ActiveCommit { job_id, top, base, between, filter_node_name, speed, on_error, auto_finalize, auto_dismiss } =
        options;
    let last = between.last().unwrap_or(&top).unfiltered();
    let reopened = base.is_read_only();
    if reopened {
        reopen::set_read_only(registry.io(), graph, &base, false).await?;
    }
    let plan = Plan {
        reopened,
        opened: None,
        replaced: top.clone(),
        start: Start::Above(last),
        reason: BUSY,
        granularity: Granularity::default_for(super::check::cluster_size(&base)),
        workers_max: WORKERS_MAX,
        on_source_error: on_error,
        on_target_error: on_error,
        unmap: true,
        copy_mode: CopyMode::Background,
        grows: true,
        between,
        source: top,
        target: base,
    };
    let job = JobOptions {
        speed,
        auto_finalize,
        auto_dismiss,
        soft_cancel: true,
        ..JobOptions::new(job_id, JobKind::Commit)
    };
    let base = plan.target.clone();
    let begun = Mirror::begin(registry, graph, plan, job, filter_node_name.as_deref()).await;
    if begun.is_err() && reopened {
        reopen::set_read_only(registry.io(), graph, &base, true).await?;
    }
    begun
}
