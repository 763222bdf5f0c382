//! What a transaction can do, as QMP says it: names are not looked up yet, values not checked.

use crate::context::OnError;
use std::sync::Arc;
use tidemark_backend::graph::new_overlay::NewOverlay;
use tidemark_backend::node::copy_before_write::CbwOptions;

/// One action of a transaction.
#[derive(Clone, Debug)]
pub enum Action {
    /// `abort`: fails, so that all others are undone.
    Abort,
    /// `block-dirty-bitmap-add`
    BitmapAdd {
        /// The node to track.
        node: String,
        /// The bitmap's name.
        name: String,
        /// Bytes per bit; what suits the node if `None`.
        granularity: Option<u64>,
        /// Whether the image keeps it.
        persistent: bool,
        /// Whether it does not record at first.
        disabled: bool,
    },
    /// `block-dirty-bitmap-remove`
    BitmapRemove(BitmapName),
    /// `block-dirty-bitmap-clear`
    BitmapClear(BitmapName),
    /// `block-dirty-bitmap-enable`
    BitmapEnable(BitmapName),
    /// `block-dirty-bitmap-disable`
    BitmapDisable(BitmapName),
    /// `block-dirty-bitmap-merge`
    BitmapMerge {
        /// The bitmap that is merged into.
        target: BitmapName,
        /// What is merged: of the target's node, or of another one.
        sources: Vec<MergeSource>,
    },
    /// `blockdev-backup`
    Backup(BackupOptions),
    /// `drive-backup`
    DriveBackup(DriveBackupOptions),
    /// `x-fleece`
    Fleece(FleeceOptions),
    /// `blockdev-snapshot` and `blockdev-snapshot-sync`
    Snapshot(SnapshotOptions),
    /// `blockdev-snapshot-internal-sync`
    InternalSnapshot(InternalSnapshotOptions),
}

/// Arguments of `blockdev-snapshot-internal-sync`.
#[derive(Clone, Debug)]
pub struct InternalSnapshotOptions {
    /// The node whose disk it is of.
    pub device: String,
    /// Its name.
    pub name: String,
}

/// Arguments of `blockdev-snapshot` and `blockdev-snapshot-sync`.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// The node that is to stay as it is.
    pub node: String,
    /// What is said if there is no such node.
    pub missing: String,
    /// What guests write to from then on.
    pub overlay: SnapshotOverlay,
}

/// What is put on top of a node.
#[derive(Clone, Debug)]
pub enum SnapshotOverlay {
    /// An image that is open: its node's name.
    Node(String),
    /// A file.
    File(NewOverlay),
}

/// A bitmap of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapName {
    /// The node's name.
    pub node: String,
    /// The bitmap's name.
    pub name: String,
}

/// A bitmap to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeSource {
    /// The node's name; the target's node if `None`.
    pub node: Option<String>,
    /// The bitmap's name.
    pub name: String,
}

/// What a backup copies (`sync`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupSync {
    /// Everything.
    Full,
    /// What the top image has of its own.
    Top,
    /// Nothing but what is about to be overwritten.
    None,
    /// What a bitmap marks, which is used up.
    Incremental,
    /// What a bitmap marks, by its mode.
    Bitmap,
}

/// What becomes of the bitmap of a backup (`bitmap-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapMode {
    /// It is used up if the backup succeeds.
    OnSuccess,
    /// It stays as it was.
    Never,
    /// What was copied is used up, however the backup ends.
    Always,
}

/// Arguments of `blockdev-backup`.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The job's id; the id of an export of the source if `None`.
    pub job_id: Option<String>,
    /// The source: a node's name.
    pub device: String,
    /// The target node.
    pub target: String,
    /// What is copied.
    pub sync: BackupSync,
    /// Bytes per second, 0 for no limit.
    pub speed: i64,
    /// A bitmap of the source.
    pub bitmap: Option<String>,
    /// What becomes of it.
    pub bitmap_mode: Option<BitmapMode>,
    /// Whether the target compresses.
    pub compress: bool,
    /// About reads.
    pub on_source_error: OnError,
    /// About writes.
    pub on_target_error: OnError,
    /// Whether the results take effect by themselves.
    pub auto_finalize: bool,
    /// Whether the job is forgotten by itself.
    pub auto_dismiss: bool,
    /// The name under which the source's filter is listed.
    pub filter_node_name: Option<String>,
    /// Whether what was copied is discarded from the source.
    pub discard_source: bool,
    /// Copies at a time.
    pub max_workers: i64,
    /// Bytes of a copy, 0 for what suits.
    pub max_chunk: i64,
    /// How what guests overwrite is kept.
    pub copying: CbwOptions,
}

/// Arguments of `drive-backup`.
#[derive(Clone, Debug)]
pub struct DriveBackupOptions {
    /// Those of `blockdev-backup`; its target is none yet.
    pub backup: BackupOptions,
    /// The target: a file's name.
    pub target: String,
    /// Its format; that of the source, or what an existing file says, if `None`.
    pub format: Option<String>,
    /// It is an image already.
    pub existing: bool,
}

/// Arguments of `x-fleece`.
#[derive(Clone, Debug)]
pub struct FleeceOptions {
    /// The job's id.
    pub job_id: String,
    /// The source: a node's name.
    pub node: String,
    /// Where what is overwritten is kept: a node's name.
    pub target: String,
    /// The name under which the point in time can be read.
    pub snapshot_node_name: String,
    /// The name under which the source's filter is listed.
    pub filter_node_name: Option<String>,
    /// A bitmap of the source: what it marks is there under the same name at the node that reads, and it begins anew.
    pub bitmap: Option<String>,
    /// What becomes of it; [`BitmapMode::OnSuccess`] if `None`. `Always` takes what readers have discarded for fetched.
    pub bitmap_mode: Option<BitmapMode>,
    /// Whether only what the bitmap marks is kept, and may be read.
    pub selects: bool,
    /// How it is kept.
    pub copying: CbwOptions,
    /// Has everybody leave who reads it.
    pub leave: Leave,
}

/// Called when a point in time ends, on the job thread: has everybody leave who reads it, without waiting for that.
#[derive(Clone)]
pub struct Leave(Arc<dyn Fn() + Send + Sync>);

impl Leave {
    /// Does this.
    pub fn new(leave: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(leave))
    }

    pub(crate) fn call(&self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Leave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leave")
    }
}
