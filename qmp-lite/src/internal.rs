//! Internal snapshots: the disk as it was at one moment, in its own image.
//!
//! Knows the arguments; taking one is a transaction of one action.

use tidemark_jobs::action::{Action, InternalSnapshotOptions};

use crate::block::image::SnapshotInfo;
use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::schema::{Empty, qapi_struct};
use crate::transaction::single;

declare_commands! {
    /// Keeps the disk as it is in its own image, which has to be qcow2. Guests go on; a write waits until the tables of
    /// the part that it is about are shared. Persistent bitmaps are not part of it.
    "blockdev-snapshot-internal-sync" => take: (BlockdevSnapshotInternal) -> Empty;
    /// Deletes an internal snapshot, and says what it was. Guests go on.
    "blockdev-snapshot-delete-internal-sync" => delete: (BlockdevSnapshotDeleteInternal) -> SnapshotInfo;
}

qapi_struct! {
    /// Arguments of `blockdev-snapshot-internal-sync`.
    pub struct BlockdevSnapshotInternal "BlockdevSnapshotInternal" {
        /// The node whose disk it is, which no other node is above.
        "device" device: String,
        /// The snapshot's name, that no other of the image has.
        "name" name: String,
    }
}

qapi_struct! {
    /// Arguments of `blockdev-snapshot-delete-internal-sync`. One of `id` and `name` is needed.
    pub struct BlockdevSnapshotDeleteInternal "blockdev-snapshot-delete-internal-sync-arg" {
        /// The node whose disk it is of.
        "device" device: String,
        /// The snapshot's id.
        "id" id: Option<String>,
        /// The snapshot's name.
        "name" name: Option<String>,
    }
}

impl From<BlockdevSnapshotInternal> for Action {
    fn from(BlockdevSnapshotInternal { device, name }: BlockdevSnapshotInternal) -> Self {
        Self::InternalSnapshot(InternalSnapshotOptions { device, name })
    }
}

fn take(context: &Context, arguments: BlockdevSnapshotInternal) -> Result<Empty, QmpError> {
    single(context, arguments.into())
}

fn delete(context: &Context, arguments: BlockdevSnapshotDeleteInternal) -> Result<SnapshotInfo, QmpError> {
    let BlockdevSnapshotDeleteInternal { device, id, name } = arguments;
    let deleted = tidemark_jobs::internal::delete(&context.jobs, &context.graph, device, id, name)?;
    Ok((&deleted).into())
}
