//! `drive-backup`: a backup whose target is a file that the command names, opened for the job and closed with it.

use super::check::{check_free, find};
use crate::action::{BackupOptions, BackupSync, DriveBackupOptions};
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::graph::Graph;
use tidemark_backend::graph::target::NewTarget;
use tidemark_backend::node::{Driver, Node};
use tidemark_backend::reactor::Handle;

/// Makes and opens the target. Returns the backup to be made, which names it, and the node to be closed after it.
///
/// # Errors
/// With QEMU's texts. A file that was made stays.
pub(crate) async fn open(
    io: &Handle,
    graph: &Arc<Graph>,
    options: DriveBackupOptions,
) -> Result<(BackupOptions, Arc<Node>), TransactionError> {
    let DriveBackupOptions { mut backup, target, format, existing } = options;
    let source = find(graph, &backup.device)?;
    check_free(&source)?;
    let below = below(&source);
    if backup.sync == BackupSync::Top && below.is_none() {
        backup.sync = BackupSync::Full;
    }
    let backing = match backup.sync {
        // An image that is there says itself what is below it.
        BackupSync::Top if !existing => below,
        BackupSync::None => Some(source.clone()),
        _ => None,
    };
    let format = format.or_else(|| (!existing).then(|| source.driver_name().to_owned()));
    let opens_backing = backup.sync == BackupSync::Top;
    let shows_backing = backing.is_some();
    let (node_name, unmap, detect_zeroes) = (None, true, true);
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
    let node = opened.ok_or_else(|| TransactionError::Text("Cannot open the backup's target".to_owned()))??;
    node.name().clone_into(&mut backup.target);
    Ok((backup, node))
}

/// The image below that of a node, which may have filters above it.
fn below(node: &Arc<Node>) -> Option<Arc<Node>> {
    match node.driver() {
        Driver::Qcow2(image) => image.backing(),
        _ if node.is_filter() => below(&node.child()?),
        _ => None,
    }
}
