//! Whether a backup can be made of what was asked for; in QEMU's order and with its texts.

use crate::action::{BackupOptions, BackupSync, BitmapMode};
use crate::copy::CopyOptions;
use crate::transaction::TransactionError;
use std::sync::Arc;
use tidemark_backend::bitmaps::Stage;
use tidemark_backend::graph::Graph;
use tidemark_backend::node::qcow2::image::Image;
use tidemark_backend::node::{Driver, Node};
use tidemark_cbt::Granularity;

/// The least bytes of a job's cluster: what QEMU counts progress in.
const CLUSTER: u64 = 65536;

/// What was found.
pub(super) struct Checked {
    pub source: Arc<Node>,
    pub target: Arc<Node>,
    pub mode: Option<BitmapMode>,
    pub copy: CopyOptions,
}

fn refuse<T>(text: impl Into<String>) -> Result<T, TransactionError> {
    Err(TransactionError::Text(text.into()))
}

/// The node of a name.
pub(crate) fn find(graph: &Graph, name: &str) -> Result<Arc<Node>, TransactionError> {
    let text = || TransactionError::Text(format!("Cannot find device='{name}' nor node-name='{name}'"));
    graph.find(name).ok_or_else(text)
}

/// Refuses a node that a job has for itself.
pub(crate) fn check_free(node: &Node) -> Result<(), TransactionError> {
    match node.busy() {
        Some(reason) => refuse(format!("Node '{}' is busy: {reason}", node.name())),
        None => Ok(()),
    }
}

pub(super) fn check(
    graph: &Graph,
    stage: &mut Stage<Node>,
    options: &BackupOptions,
) -> Result<Checked, TransactionError> {
    let source = find(graph, &options.device)?;
    let target = find(graph, &options.target)?;
    let mode = check_bitmap(stage, &source, options)?;
    if Arc::ptr_eq(&source, &target) {
        return refuse("Source and target cannot be the same");
    }
    if options.compress && compressing(&target).is_none() {
        return refuse("Compression is not supported for this drive ");
    }
    check_free(&source)?;
    check_free(&target)?;
    let workers = usize::try_from(options.max_workers).ok().filter(|count| (1..=0x7fff_ffff).contains(count));
    let Some(workers_max) = workers else { return refuse("max-workers must be between 1 and 2147483647") };
    let Ok(chunk_max) = u64::try_from(options.max_chunk) else {
        return refuse("max-chunk must be zero (which means no limit) or positive");
    };
    if let (Some(name), Some(BitmapMode::OnSuccess | BitmapMode::Always)) = (&options.bitmap, mode) {
        stage.check_change(&source, name)?;
    }
    if source.length() != target.length() {
        return refuse("Source and target image have different sizes");
    }
    let copy = CopyOptions {
        workers_max,
        chunk_max,
        on_source_error: options.on_source_error,
        on_target_error: options.on_target_error,
    };
    let (asked, most) = (options.copying.min_chunk, i64::MAX);
    if i64::try_from(asked).is_err() {
        return refuse(format!("min-cluster-size too large: {asked} > {most}"));
    }
    Ok(Checked { source, target, mode, copy })
}

/// The image that compresses what is written to a node, if one does.
pub(super) fn compressing(target: &Node) -> Option<&Image> {
    match target.driver() {
        Driver::Qcow2(image) => Some(&**image).filter(|image| image.can_compress()),
        _ => None,
    }
}

/// The job's cluster, at least the target's; looked at when there is a filter, as QEMU does.
pub(super) fn cluster(options: &BackupOptions, target: &Arc<Node>) -> Result<Granularity, TransactionError> {
    let asked = options.copying.min_chunk;
    if asked != 0 && !asked.is_power_of_two() {
        return refuse(
            "Could not create node: Cannot create block-copy-state: min-cluster-size needs to be a power of 2",
        );
    }
    let bytes = asked.max(CLUSTER).max(cluster_size(target));
    let too_large = || TransactionError::Text("min-cluster-size is too large".to_owned());
    let cluster = Granularity::new(bytes).ok_or_else(too_large)?;
    match u64::try_from(options.max_chunk) {
        Ok(chunk @ 1..) if chunk < bytes => {
            refuse(format!("Required max-chunk ({chunk}) is less than backup cluster size ({bytes})"))
        }
        _ => Ok(cluster),
    }
}

/// The cluster of the image that a node or what it filters is; 0 if it is none.
fn cluster_size(node: &Arc<Node>) -> u64 {
    match node.driver() {
        Driver::Qcow2(image) => image.cluster_size(),
        Driver::Raw(_) => node.child().map_or(0, |child| cluster_size(&child)),
        _ if node.is_filter() => node.child().map_or(0, |child| cluster_size(&child)),
        _ => 0,
    }
}

/// The bitmap's mode, if there is one.
fn check_bitmap(
    stage: &mut Stage<Node>,
    source: &Arc<Node>,
    options: &BackupOptions,
) -> Result<Option<BitmapMode>, TransactionError> {
    let incremental = options.sync == BackupSync::Incremental;
    if incremental || options.sync == BackupSync::Bitmap {
        let sync = if incremental { "incremental" } else { "bitmap" };
        if options.bitmap.is_none() {
            return refuse(format!("must provide a valid bitmap name for '{sync}' sync mode"));
        }
    }
    let mut mode = options.bitmap_mode;
    if incremental {
        if mode.is_some_and(|mode| mode != BitmapMode::OnSuccess) {
            return refuse("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'");
        }
        mode = Some(BitmapMode::OnSuccess);
    }
    let Some(name) = &options.bitmap else {
        return match mode {
            Some(_) => refuse("Cannot specify bitmap sync mode without a bitmap"),
            None => Ok(None),
        };
    };
    if !stage.contains(source, name) {
        return refuse(format!("Bitmap '{name}' could not be found"));
    }
    let Some(mode) = mode else { return refuse("Bitmap sync mode must be given when providing a bitmap") };
    stage.check_backup(source, name)?;
    match (options.sync, mode) {
        (BackupSync::None, _) => refuse("sync mode 'none' does not produce meaningful bitmap outputs"),
        (BackupSync::Full | BackupSync::Top, BitmapMode::Never) => {
            let sync = if options.sync == BackupSync::Full { "full" } else { "top" };
            refuse(format!("Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{sync}'"))
        }
        _ => Ok(Some(mode)),
    }
}
