//! `drive-mirror`: a mirror whose target is a file that the command names, opened for the job.

use super::{MirrorOptions, MirrorSync, check};
use crate::backup::check::check_free;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::graph::target::NewTarget;
use tidemark_backend::node::Node;
use tidemark_backend::reactor::Handle;

/// Arguments of `drive-mirror`.
#[derive(Clone, Debug)]
pub struct DriveMirrorOptions {
    /// Those of `blockdev-mirror`; its target is none yet.
    pub mirror: MirrorOptions,
    /// The target: a file's name.
    pub target: String,
    /// Its format; that of the source, or what an existing file says, if `None`.
    pub format: Option<String>,
    /// The name of its node.
    pub node_name: Option<String>,
    /// It is an image already.
    pub existing: bool,
}

/// Makes and opens the target. Returns the mirror to be made, which names it, and the node to be closed after it, unless
/// guests use it then.
///
/// # Errors
/// With QEMU's texts. A file that was made stays.
pub(super) async fn open(
    io: &Handle,
    graph: &Arc<Graph>,
    options: DriveMirrorOptions,
) -> Result<(MirrorOptions, Arc<Node>), TransactionError> {
    let DriveMirrorOptions { mut mirror, target, format, node_name, existing } = options;
    let source = check::find_root(graph, &mirror.device, None)?;
    check_free(&source)?;
    // Before the target is made, which leaves nothing of what its file had.
    if mirror.replaces.is_some() && node_name.is_none() {
        let text = "a node-name must be provided when replacing a named node of the graph";
        return Err(TransactionError::Text(text.to_owned()));
    }
    let backing = match mirror.sync {
        MirrorSync::Top => source.unfiltered().below(),
        MirrorSync::None if !existing => Some(source.clone()),
        _ => None,
    };
    let format = format.or_else(|| (!existing).then(|| source.driver_name().to_owned()));
    let (unmap, detect_zeroes) = (mirror.unmap, false);
    // A raw target gets what the uppermost image has, and shows that alone.
    let (shows_backing, opens_backing) = (false, false);
    let new = NewTarget {
        path: target,
        format,
        existing,
        node_name,
        backing,
        shows_backing,
        opens_backing,
        unmap,
        detect_zeroes,
    };
    let opening = graph.clone();
    let opened = io.aside(move || opening.open_target(&source, &new)).await;
    let node = opened.ok_or_else(|| TransactionError::Text("Cannot open the mirror's target".to_owned()))??;
    node.name().clone_into(&mut mirror.target);
    Ok((mirror, node))
}
