//! External snapshots: an image on top of a node, which stays as it is.
//!
//! Knows the arguments; each command is a transaction of one action.

use std::path::PathBuf;

use tidemark_backend::graph::new_overlay::NewOverlay;
use tidemark_jobs::action::{Action, SnapshotOptions, SnapshotOverlay};

use crate::block::not_found;
use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::schema::{Empty, qapi_enum, qapi_struct};
use crate::transaction::single;

declare_commands! {
    /// Puts an image on top of a node: guests write to the image from now on, and the node stays as it is. No request
    /// waits for storage.
    "blockdev-snapshot" => blockdev_snapshot: (BlockdevSnapshot) -> Empty;
    /// Makes an image over a node, or takes one that is there, and puts it on top of the node.
    "blockdev-snapshot-sync" => blockdev_snapshot_sync: (BlockdevSnapshotSync) -> Empty;
}

qapi_struct! {
    /// Arguments of `blockdev-snapshot`.
    pub struct BlockdevSnapshot "BlockdevSnapshot" {
        /// The node that is to stay as it is.
        "node" node: String,
        /// The image, opened with `"backing": null`, that nobody uses.
        "overlay" overlay: String,
    }
}

qapi_struct! {
    /// Arguments of `blockdev-snapshot-sync`. One of `device` and `node-name` is needed.
    pub struct BlockdevSnapshotSync "BlockdevSnapshotSync" {
        /// The id of an export whose node is to stay as it is.
        "device" device: Option<String>,
        /// The node that is to stay as it is.
        "node-name" node_name: Option<String>,
        /// The path of the image.
        "snapshot-file" snapshot_file: String,
        /// The name of its node; needed with `node-name`, made up if absent.
        "snapshot-node-name" snapshot_node_name: Option<String>,
        /// Its format; qcow2 if absent, and no other has images below.
        "format" format: Option<String>,
        /// Whether the image is made; absolute-paths if absent.
        "mode" mode: Option<NewImageMode>,
    }
}

qapi_enum! {
    /// Whether an image that a command names is made.
    pub enum NewImageMode "NewImageMode" {
        /// It is there, and stays as it is.
        Existing = "existing",
        /// It is made.
        AbsolutePaths = "absolute-paths",
    }
}

impl From<BlockdevSnapshot> for Action {
    fn from(BlockdevSnapshot { node, overlay }: BlockdevSnapshot) -> Self {
        let missing = format!("Cannot find device='{node}' nor node-name='{node}'");
        Self::Snapshot(SnapshotOptions { node, missing, overlay: SnapshotOverlay::Node(overlay) })
    }
}

impl BlockdevSnapshotSync {
    /// What it does.
    pub(crate) fn into_action(self, context: &Context) -> Action {
        let device = self.device.as_deref().unwrap_or_default();
        let of_export = context.exports.list().into_iter().find(|export| export.id == device);
        let node = match (&self.node_name, of_export) {
            (Some(name), _) => name.clone(),
            (None, export) => export.map(|export| export.node.name().to_owned()).unwrap_or_default(),
        };
        let missing = not_found(device, self.node_name.as_deref().unwrap_or_default()).desc;
        let overlay = NewOverlay {
            path: PathBuf::from(self.snapshot_file),
            node_name: self.snapshot_node_name,
            needs_name: self.node_name.is_some(),
            format: self.format.unwrap_or_else(|| "qcow2".to_owned()),
            existing: self.mode == Some(NewImageMode::Existing),
        };
        Action::Snapshot(SnapshotOptions { node, missing, overlay: SnapshotOverlay::File(overlay) })
    }
}

fn blockdev_snapshot(context: &Context, arguments: BlockdevSnapshot) -> Result<Empty, QmpError> {
    single(context, arguments.into())
}

fn blockdev_snapshot_sync(context: &Context, arguments: BlockdevSnapshotSync) -> Result<Empty, QmpError> {
    single(context, arguments.into_action(context))
}
