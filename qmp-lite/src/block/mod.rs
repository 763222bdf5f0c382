//! Commands about block nodes.
//!
//! Knows the graph's control operations; does no I/O on nodes.

mod blkdebug;
mod blkdebug_event;
pub(crate) mod copy_before_write;
mod copy_on_read;
mod create;
pub mod image;
pub mod info;
mod nbd;
mod objects;
mod options;
mod qcow2;
mod resize;
pub mod stats;
mod throttle;

pub use options::{BlockdevOptions, BlockdevRef};

use std::sync::Arc;

use tidemark_backend::error::GraphError;
use tidemark_backend::node::options::{ChildRef, Discard, DriverOptions, Setting};
use tidemark_backend::node::qcow2::create::Preallocation;
use tidemark_backend::node::{Node, NodeOptions};

use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::object::is_identifier;
use crate::schema::{Empty, qapi_struct};
use create::BlockdevCreate;
use info::{BlockDeviceInfo, BlockInfo};
use options::BlockdevDiscardOptions;
use stats::BlockStats;

declare_commands! {
    /// Opens a node, and the nodes defined inside its options.
    "blockdev-add" => blockdev_add: (BlockdevOptions) -> Empty;
    /// Closes a node that nothing uses, and the nodes that were defined inside its options.
    "blockdev-del" => blockdev_del: (BlockdevDel) -> Empty;
    /// Makes a file or an image. Starts a job, which stays until it is dismissed.
    "blockdev-create" => blockdev_create: (BlockdevCreate) -> Empty;
    /// Gives nodes that are open other options, all of them or none. Options that are left out have their defaults then, but
    /// for `discard`, which stays.
    "blockdev-reopen" => blockdev_reopen: (BlockdevReopen) -> Empty;
    /// Changes the size of a node, down to its file. Guests that use it are told; a node that an NBD export shows
    /// keeps its size as long as that is there.
    "block_resize" => block_resize: (BlockResize) -> Empty;
    /// Lists the nodes, newest first.
    "query-named-block-nodes" => query_named_block_nodes: (QueryNamedBlockNodes) -> Vec<BlockDeviceInfo>;
    /// Lists the exports as if they were block devices, for tools that look for those.
    "query-block" => query_block: (Empty) -> Vec<BlockInfo>;
    /// Counts what the guests of each export have done, or what was done to each node by exports.
    "query-blockstats" => query_blockstats: (QueryBlockstats) -> Vec<BlockStats>;
}

qapi_struct! {
    /// Arguments of `blockdev-del`.
    pub struct BlockdevDel "blockdev-del-arg" {
        /// The node to close.
        "node-name" node_name: String,
    }
}

qapi_struct! {
    /// Arguments of `blockdev-reopen`.
    pub struct BlockdevReopen "blockdev-reopen-arg" {
        /// The nodes by their names, each with all its options. What may change is `read-only`, `discard`, `detect-zeroes`,
        /// `cache`, a raw node's `offset`, `size` and `file`, and an image's `backing`, caches, `pass-discard-request` and
        /// `file`, as long as that shows the same storage. A file that takes no more writes because a flush has failed
        /// takes them again if a flush succeeds now; bitmaps of nodes above it mark everything then.
        "options" options: Vec<BlockdevOptions>,
    }
}

qapi_struct! {
    /// Arguments of `block_resize`. One of `device` and `node-name` is needed.
    pub struct BlockResize "block_resize-arg" {
        /// The id of an export whose node to resize.
        "device" device: Option<String>,
        /// The node to resize.
        "node-name" node_name: Option<String>,
        /// The new size in bytes.
        "size" size: i64,
    }
}

qapi_struct! {
    /// Arguments of `query-named-block-nodes`.
    pub struct QueryNamedBlockNodes "query-named-block-nodes-arg" {
        /// Leave out information about the images below filters. Off if absent.
        "flat" flat: Option<bool>,
    }
}

qapi_struct! {
    /// Arguments of `query-blockstats`.
    pub struct QueryBlockstats "query-blockstats-arg" {
        /// List nodes instead of exports. Off if absent.
        "query-nodes" query_nodes: Option<bool>,
    }
}

/// The longest name of a node, as in QEMU.
const NODE_NAME_BYTES: usize = 31;

/// The text for a name that is neither a device's nor a node's.
pub(crate) fn not_found(device: &str, node_name: &str) -> QmpError {
    let text = format!("Cannot find device='{device}' nor node-name='{node_name}'");
    QmpError::generic(text)
}

/// The node with this name.
///
/// # Errors
/// If there is none.
pub(crate) fn node(context: &Context, name: &str) -> Result<Arc<Node>, QmpError> {
    context.graph.find(name).ok_or_else(|| not_found("", name))
}

impl From<GraphError> for QmpError {
    fn from(error: GraphError) -> Self {
        let text = Self::generic(error.to_string());
        match error {
            GraphError::Locked(conflict) => text.with_hint(conflict.hint()),
            GraphError::NameInvalid(name) if name.len() > NODE_NAME_BYTES && is_identifier(&name) => {
                Self::generic("Node name too long")
            }
            _ => text,
        }
    }
}

fn blockdev_add(context: &Context, options: BlockdevOptions) -> Result<Empty, QmpError> {
    let mut options = NodeOptions::try_from(options)?;
    objects::find(&mut options, &context.objects)?;
    check_force_share(&options, Setting::Unsaid)?;
    context.graph.open(&options)?;
    Ok(Empty {})
}

/// Whoever takes no image lock must not write. A node defined inside a read-only one is read-only too.
fn check_force_share(options: &NodeOptions, above: Setting) -> Result<(), QmpError> {
    let read_only = options.read_only.under(above);
    if options.force_share && !read_only.is_on() {
        return Err(QmpError::generic("force-share=on can only be used with read-only images"));
    }
    let children = match &options.driver {
        DriverOptions::Raw(raw) => vec![&raw.file],
        DriverOptions::BlkDebug(debug) => vec![&debug.image],
        DriverOptions::Throttle(throttle) => vec![&throttle.file],
        DriverOptions::CopyOnRead(filter) => vec![&filter.file],
        DriverOptions::CopyBeforeWrite(copy) => vec![&copy.file, &copy.target],
        DriverOptions::SnapshotAccess(file) => vec![file],
        DriverOptions::Qcow2(qcow2) => std::iter::once(&qcow2.file).chain(&qcow2.data_file).collect(),
        DriverOptions::File(_) | DriverOptions::Null(_) | DriverOptions::Nbd(_) => Vec::new(),
    };
    children.into_iter().try_for_each(|child| match child {
        ChildRef::Inline(options) => check_force_share(options, read_only),
        ChildRef::Name(_) => Ok(()),
    })
}

fn blockdev_del(context: &Context, arguments: BlockdevDel) -> Result<Empty, QmpError> {
    let name = arguments.node_name;
    // QEMU tells exports from other users, and looks for them first.
    if context.export_of(&name).is_some() {
        return Err(GraphError::InUse(name).into());
    }
    if let Some(node) = context.graph.find(&name) {
        context.graph.check_free(&node)?;
    }
    match context.graph.close(&name) {
        Err(GraphError::InUse(_)) => Err(QmpError::generic(format!("Block device {name} is in use"))),
        result => Ok(result.map(|()| Empty {})?),
    }
}

fn blockdev_create(context: &Context, arguments: BlockdevCreate) -> Result<Empty, QmpError> {
    let creation = arguments.options.try_into()?;
    tidemark_jobs::create::create(&context.jobs, &context.graph, arguments.job_id, creation)?;
    Ok(Empty {})
}

fn blockdev_reopen(context: &Context, arguments: BlockdevReopen) -> Result<Empty, QmpError> {
    let options = arguments.options.into_iter().map(|mut options| {
        // As with QEMU, this one stays as it is if nothing is said.
        let node = options.node_name.as_ref().and_then(|name| context.graph.find(name));
        if options.discard.is_none() && node.is_some_and(|node| node.discard() == Discard::Unmap) {
            options.discard = Some(BlockdevDiscardOptions::Unmap);
        }
        let mut options = NodeOptions::try_from(options)?;
        objects::find(&mut options, &context.objects)?;
        Ok::<_, QmpError>(options)
    });
    let options = options.collect::<Result<_, _>>()?;
    tidemark_jobs::reopen::reopen(&context.jobs, &context.graph, options)?;
    Ok(Empty {})
}

fn block_resize(context: &Context, arguments: BlockResize) -> Result<Empty, QmpError> {
    let node = resized_node(context, &arguments)?;
    let size = u64::try_from(arguments.size).map_err(|_| QmpError::generic("Parameter 'size' expects a >0 size"))?;
    resize::check(context, &node)?;
    if node.is_read_only() {
        return Err(QmpError::generic("Image is read-only"));
    }
    tidemark_jobs::resize::resize(&context.jobs, &context.graph, &node, (size, Preallocation::Off))?;
    Ok(Empty {})
}

/// The export's node if there is such an export, else the node.
fn resized_node(context: &Context, arguments: &BlockResize) -> Result<Arc<Node>, QmpError> {
    let device = arguments.device.as_deref().unwrap_or_default();
    let name = arguments.node_name.as_deref().unwrap_or_default();
    let export = context.exports.list().into_iter().find(|export| export.id == device);
    match export {
        Some(export) => Ok(export.node),
        None => context.graph.find(name).ok_or_else(|| not_found(device, name)),
    }
}

fn query_named_block_nodes(
    context: &Context,
    arguments: QueryNamedBlockNodes,
) -> Result<Vec<BlockDeviceInfo>, QmpError> {
    let flat = arguments.flat.unwrap_or(false);
    Ok(context.graph.nodes().iter().rev().map(|node| info::block_device(node, flat)).collect())
}

fn query_block(context: &Context, _: Empty) -> Result<Vec<BlockInfo>, QmpError> {
    Ok(context.exports.list().iter().map(info::block).collect())
}

fn query_blockstats(context: &Context, arguments: QueryBlockstats) -> Result<Vec<BlockStats>, QmpError> {
    let exports = context.exports.list();
    if arguments.query_nodes.unwrap_or(false) {
        let nodes = context.graph.nodes();
        return Ok(nodes.iter().map(|node| stats::of_node(node, &exports)).collect());
    }
    Ok(exports.iter().map(stats::of_export).collect())
}
