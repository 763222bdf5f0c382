//! Commands about dirty bitmaps: each is a transaction of one action.
//!
//! Knows their arguments and how they become actions; what these do, and when they are refused, is decided where a
//! transaction is carried out.

use tidemark_backend::bitmaps::BitmapInfo;
use tidemark_jobs::action::{Action, BitmapName, MergeSource};

use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::schema::{Empty, qapi_alternate, qapi_struct};
use crate::transaction;

declare_commands! {
    /// Creates a bitmap, which marks what is changed from now on.
    "block-dirty-bitmap-add" => add: (BlockDirtyBitmapAdd) -> Empty;
    /// Deletes a bitmap.
    "block-dirty-bitmap-remove" => remove: (BlockDirtyBitmap) -> Empty;
    /// Unmarks all that a bitmap marks.
    "block-dirty-bitmap-clear" => clear: (BlockDirtyBitmap) -> Empty;
    /// Has a bitmap mark what is changed from now on.
    "block-dirty-bitmap-enable" => enable: (BlockDirtyBitmap) -> Empty;
    /// Has a bitmap stay as it is.
    "block-dirty-bitmap-disable" => disable: (BlockDirtyBitmap) -> Empty;
    /// Marks in a bitmap what others mark, of this node or of others, of any granularity. All of them are read at
    /// one moment; on an error none is changed.
    "block-dirty-bitmap-merge" => merge: (BlockDirtyBitmapMerge) -> Empty;
}

qapi_struct! {
    /// A bitmap to create.
    pub struct BlockDirtyBitmapAdd "BlockDirtyBitmapAdd" {
        /// The node whose changes it marks.
        "node" node: String,
        /// Its name, unique among the node's bitmaps; up to 1023 bytes.
        "name" name: String,
        /// How many bytes each of its bits stands for: a power of two, at least 512. What suits the node if absent.
        "granularity" granularity: Option<u32>,
        /// Whether the image keeps it when it is closed. Off if absent.
        "persistent" persistent: Option<bool>,
        /// Whether it marks nothing until it is enabled. Off if absent.
        "disabled" disabled: Option<bool>,
    }
}

qapi_struct! {
    /// A bitmap of a node.
    pub struct BlockDirtyBitmap "BlockDirtyBitmap" {
        /// The node's name.
        "node" node: String,
        /// The bitmap's name.
        "name" name: String,
    }
}

qapi_struct! {
    /// Bitmaps to merge into another one.
    pub struct BlockDirtyBitmapMerge "BlockDirtyBitmapMerge" {
        /// The node of the bitmap that is merged into.
        "node" node: String,
        /// The name of that bitmap.
        "target" target: String,
        /// What it is to mark too.
        "bitmaps" bitmaps: Vec<BlockDirtyBitmapOrStr>,
    }
}

qapi_alternate! {
    /// A bitmap of the same node or of any.
    pub enum BlockDirtyBitmapOrStr "BlockDirtyBitmapOrStr" {
        /// The name of a bitmap of the same node.
        "local" Local(String): String,
        /// A node's bitmap.
        "external" External(BlockDirtyBitmap): Object,
    }
}

qapi_struct! {
    /// What is known of a bitmap.
    pub struct BlockDirtyInfo "BlockDirtyInfo" {
        /// Its name.
        "name" name: Option<String>,
        /// How many bytes it marks.
        "count" count: u64,
        /// How many bytes each bit stands for.
        "granularity" granularity: u32,
        /// Whether it marks what is changed now.
        "recording" recording: bool,
        /// Whether a job or an export uses it, so that it cannot be changed.
        "busy" busy: bool,
        /// Whether the image keeps it when it is closed.
        "persistent" persistent: bool,
        /// Present if it was not stored properly: it can only be removed.
        "inconsistent" inconsistent: Option<bool>,
        /// The point in time since which it marks every change. Absent if it does not record, or has recorded all along since
        /// the node was opened. Not in QEMU.
        "x-change-id" x_change_id: Option<String>,
    }
}

impl From<BlockDirtyBitmapAdd> for Action {
    fn from(bitmap: BlockDirtyBitmapAdd) -> Self {
        Self::BitmapAdd {
            node: bitmap.node,
            name: bitmap.name,
            granularity: bitmap.granularity.map(u64::from),
            persistent: bitmap.persistent.unwrap_or(false),
            disabled: bitmap.disabled.unwrap_or(false),
        }
    }
}

impl From<BlockDirtyBitmap> for BitmapName {
    fn from(bitmap: BlockDirtyBitmap) -> Self {
        Self { node: bitmap.node, name: bitmap.name }
    }
}

impl From<BlockDirtyBitmapOrStr> for MergeSource {
    fn from(source: BlockDirtyBitmapOrStr) -> Self {
        match source {
            BlockDirtyBitmapOrStr::Local(name) => Self { node: None, name },
            BlockDirtyBitmapOrStr::External(bitmap) => Self { node: Some(bitmap.node), name: bitmap.name },
        }
    }
}

impl From<BlockDirtyBitmapMerge> for Action {
    fn from(merge: BlockDirtyBitmapMerge) -> Self {
        let target = BitmapName { node: merge.node, name: merge.target };
        Self::BitmapMerge { target, sources: merge.bitmaps.into_iter().map(Into::into).collect() }
    }
}

impl From<BitmapInfo> for BlockDirtyInfo {
    fn from(info: BitmapInfo) -> Self {
        Self {
            name: Some(info.name),
            count: info.count,
            granularity: info.granularity,
            recording: info.recording,
            busy: info.busy,
            persistent: info.persistent,
            inconsistent: info.inconsistent.then_some(true),
            x_change_id: info.since.map(|since| since.to_string()),
        }
    }
}

fn add(context: &Context, arguments: BlockDirtyBitmapAdd) -> Result<Empty, QmpError> {
    transaction::single(context, arguments.into())
}

fn remove(context: &Context, arguments: BlockDirtyBitmap) -> Result<Empty, QmpError> {
    transaction::single(context, Action::BitmapRemove(arguments.into()))
}

fn clear(context: &Context, arguments: BlockDirtyBitmap) -> Result<Empty, QmpError> {
    transaction::single(context, Action::BitmapClear(arguments.into()))
}

fn enable(context: &Context, arguments: BlockDirtyBitmap) -> Result<Empty, QmpError> {
    transaction::single(context, Action::BitmapEnable(arguments.into()))
}

fn disable(context: &Context, arguments: BlockDirtyBitmap) -> Result<Empty, QmpError> {
    transaction::single(context, Action::BitmapDisable(arguments.into()))
}

fn merge(context: &Context, arguments: BlockDirtyBitmapMerge) -> Result<Empty, QmpError> {
    transaction::single(context, arguments.into())
}
