//! The command `transaction`, and the way of every command that makes a point in time: one by itself is a transaction of
//! one action.
//!
//! Knows which actions there are and which can be grouped. All of them happen at one moment or none does.

mod fleece;

pub use fleece::Fleeces;

use tidemark_jobs::action::Action;
use tidemark_jobs::transaction::{TransactionError, transact};

use crate::bitmap::{BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge};
use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::internal::BlockdevSnapshotInternal;
use crate::job::DriveBackup;
use crate::job::backup::BlockdevBackup;
use crate::schema::{Empty, qapi_enum, qapi_struct, qapi_union};
use crate::snapshot::{BlockdevSnapshot, BlockdevSnapshotSync};
use fleece::XFleece;

declare_commands! {
    /// Does several things at one moment, or none of them if one fails.
    "transaction" => transaction: (Transaction) -> Empty;
}

qapi_struct! {
    /// Arguments of `transaction`.
    pub struct Transaction "transaction-arg" {
        /// What to do, in this order as far as one depends on another.
        "actions" actions: Vec<TransactionAction>,
        /// How the jobs among them depend on each other.
        "properties" properties: Option<TransactionProperties>,
    }
}

qapi_struct! {
    /// How the jobs of a transaction depend on each other.
    pub struct TransactionProperties "TransactionProperties" {
        /// Whether they succeed together; individual if absent.
        "completion-mode" completion_mode: Option<ActionCompletionMode>,
    }
}

qapi_enum! {
    /// Whether the jobs of a transaction succeed together.
    pub enum ActionCompletionMode "ActionCompletionMode" {
        /// Each for itself.
        Individual = "individual",
        /// All or none. All actions have to be jobs.
        Grouped = "grouped",
    }
}

qapi_union! {
    /// One thing that a transaction does.
    pub struct TransactionAction "TransactionAction" {
        /// What it is: the name of a command, or abort.
        "type" kind: TransactionActionKind,
    }
    /// Its arguments.
    pub enum TransactionActionData by "type" kind: TransactionActionKind {
        /// `abort`
        Abort(AbortWrapper),
        /// `block-dirty-bitmap-add`
        BlockDirtyBitmapAdd(BlockDirtyBitmapAddWrapper),
        /// `block-dirty-bitmap-remove`
        BlockDirtyBitmapRemove(BlockDirtyBitmapWrapper),
        /// `block-dirty-bitmap-clear`
        BlockDirtyBitmapClear(BlockDirtyBitmapWrapper),
        /// `block-dirty-bitmap-enable`
        BlockDirtyBitmapEnable(BlockDirtyBitmapWrapper),
        /// `block-dirty-bitmap-disable`
        BlockDirtyBitmapDisable(BlockDirtyBitmapWrapper),
        /// `block-dirty-bitmap-merge`
        BlockDirtyBitmapMerge(BlockDirtyBitmapMergeWrapper),
        /// `blockdev-backup`
        BlockdevBackup(BlockdevBackupWrapper),
        /// `blockdev-snapshot`
        BlockdevSnapshot(BlockdevSnapshotWrapper),
        /// `blockdev-snapshot-sync`
        BlockdevSnapshotSync(BlockdevSnapshotSyncWrapper),
        /// `blockdev-snapshot-internal-sync`
        BlockdevSnapshotInternalSync(BlockdevSnapshotInternalWrapper),
        /// `drive-backup`
        DriveBackup(DriveBackupWrapper),
        /// `x-fleece`
        XFleece(XFleeceWrapper),
    }
}

qapi_enum! {
    /// What a transaction can do.
    pub enum TransactionActionKind "TransactionActionKind" {
        /// Fail, so that nothing happens.
        Abort = "abort",
        /// What the command of this name does.
        BlockDirtyBitmapAdd = "block-dirty-bitmap-add",
        /// What the command of this name does.
        BlockDirtyBitmapRemove = "block-dirty-bitmap-remove",
        /// What the command of this name does.
        BlockDirtyBitmapClear = "block-dirty-bitmap-clear",
        /// What the command of this name does.
        BlockDirtyBitmapEnable = "block-dirty-bitmap-enable",
        /// What the command of this name does.
        BlockDirtyBitmapDisable = "block-dirty-bitmap-disable",
        /// What the command of this name does.
        BlockDirtyBitmapMerge = "block-dirty-bitmap-merge",
        /// What the command of this name does.
        BlockdevBackup = "blockdev-backup",
        /// What the command of this name does.
        BlockdevSnapshot = "blockdev-snapshot",
        /// What the command of this name does.
        BlockdevSnapshotSync = "blockdev-snapshot-sync",
        /// What the command of this name does.
        BlockdevSnapshotInternalSync = "blockdev-snapshot-internal-sync",
        /// What the command of this name does.
        DriveBackup = "drive-backup",
        /// Keep a point in time for readers, and export it. Not in QEMU.
        XFleece = "x-fleece",
    }
}

qapi_struct! {
    /// The action that fails.
    pub struct AbortWrapper "AbortWrapper" {
        /// Nothing.
        "data" data: Empty,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct BlockDirtyBitmapAddWrapper "BlockDirtyBitmapAddWrapper" {
        /// Those of the command.
        "data" data: BlockDirtyBitmapAdd,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct BlockDirtyBitmapWrapper "BlockDirtyBitmapWrapper" {
        /// Those of the command.
        "data" data: BlockDirtyBitmap,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct BlockDirtyBitmapMergeWrapper "BlockDirtyBitmapMergeWrapper" {
        /// Those of the command.
        "data" data: BlockDirtyBitmapMerge,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct BlockdevBackupWrapper "BlockdevBackupWrapper" {
        /// Those of the command.
        "data" data: BlockdevBackup,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct BlockdevSnapshotWrapper "BlockdevSnapshotWrapper" {
        /// Those of the command.
        "data" data: BlockdevSnapshot,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct BlockdevSnapshotSyncWrapper "BlockdevSnapshotSyncWrapper" {
        /// Those of the command.
        "data" data: BlockdevSnapshotSync,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct BlockdevSnapshotInternalWrapper "BlockdevSnapshotInternalWrapper" {
        /// Those of the command.
        "data" data: BlockdevSnapshotInternal,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct DriveBackupWrapper "DriveBackupWrapper" {
        /// Those of the command.
        "data" data: DriveBackup,
    }
}

qapi_struct! {
    /// Arguments of an action.
    pub struct XFleeceWrapper "XFleeceWrapper" {
        /// A point in time.
        "data" data: XFleece,
    }
}

impl TransactionAction {
    fn into_action(self, context: &Context) -> Action {
        match self.branch {
            TransactionActionData::Abort(_) => Action::Abort,
            TransactionActionData::BlockDirtyBitmapAdd(add) => add.data.into(),
            TransactionActionData::BlockDirtyBitmapRemove(bitmap) => Action::BitmapRemove(bitmap.data.into()),
            TransactionActionData::BlockDirtyBitmapClear(bitmap) => Action::BitmapClear(bitmap.data.into()),
            TransactionActionData::BlockDirtyBitmapEnable(bitmap) => Action::BitmapEnable(bitmap.data.into()),
            TransactionActionData::BlockDirtyBitmapDisable(bitmap) => Action::BitmapDisable(bitmap.data.into()),
            TransactionActionData::BlockDirtyBitmapMerge(merge) => merge.data.into(),
            TransactionActionData::BlockdevBackup(backup) => Action::Backup(backup.data.into_options(context)),
            TransactionActionData::BlockdevSnapshot(snapshot) => snapshot.data.into(),
            TransactionActionData::BlockdevSnapshotSync(snapshot) => snapshot.data.into_action(context),
            TransactionActionData::BlockdevSnapshotInternalSync(snapshot) => snapshot.data.into(),
            TransactionActionData::DriveBackup(backup) => Action::DriveBackup(backup.data.into_options(context)),
            TransactionActionData::XFleece(fleece) => Action::Fleece(fleece.data.options(context)),
        }
    }
}

impl From<TransactionError> for QmpError {
    fn from(error: TransactionError) -> Self {
        Self { class: error.class().into(), ..Self::generic(error.to_string()) }
    }
}

/// Does one thing.
///
/// # Errors
/// Why it was not done.
pub(crate) fn single(context: &Context, action: Action) -> Result<Empty, QmpError> {
    transact(&context.jobs, &context.graph, vec![action], false)?;
    Ok(Empty {})
}

fn transaction(context: &Context, arguments: Transaction) -> Result<Empty, QmpError> {
    let mode = arguments.properties.and_then(|properties| properties.completion_mode);
    let grouped = mode == Some(ActionCompletionMode::Grouped);
    if grouped {
        arguments.actions.iter().try_for_each(check_groupable)?;
    }
    let mut pending = Vec::new();
    for action in &arguments.actions {
        if let TransactionActionData::XFleece(fleece) = &action.branch {
            pending.extend(fleece.data.pending(context, &pending)?);
        }
    }
    let actions = arguments.actions.into_iter().map(|action| action.into_action(context)).collect();
    transact(&context.jobs, &context.graph, actions, grouped)?;
    fleece::export(context, pending)?;
    Ok(Empty {})
}

/// Only jobs that end by themselves can wait for each other.
fn check_groupable(action: &TransactionAction) -> Result<(), QmpError> {
    match action.kind {
        TransactionActionKind::BlockdevBackup | TransactionActionKind::DriveBackup => Ok(()),
        kind => {
            let text = "does not support transaction property completion-mode = grouped";
            Err(QmpError::generic(format!("Action '{}' {text}", kind.text())))
        }
    }
}
