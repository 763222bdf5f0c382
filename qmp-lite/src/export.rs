//! Commands about exports.
//!
//! Knows the options of each kind of export and makes what the back end understands of them.

pub(crate) mod address;
mod legacy;
pub mod nbd;

use tidemark_backend::export::vhost::{Polling, QUEUES_MAX, VhostOptions};
use tidemark_backend::export::{ExportError, ExportInfo, RemoveMode};

use crate::block;
use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::schema::{Empty, Size, qapi_enum, qapi_struct, qapi_union};
use address::SocketAddress;
use nbd::BlockExportOptionsNbd;

/// `logical-block-size` if nothing is said.
const LOGICAL_BLOCK_SIZE: u64 = 512;

declare_commands! {
    /// Exports a node.
    "block-export-add" => block_export_add: (BlockExportOptions) -> Empty;
    /// Ends an export. `BLOCK_EXPORT_DELETED` tells when it is gone.
    "block-export-del" => block_export_del: (BlockExportDel) -> Empty;
    /// Lists the exports.
    "query-block-exports" => query_block_exports: (Empty) -> Vec<BlockExportInfo>;
}

qapi_union! {
    /// An export: what is the same for all kinds, and the members of its kind.
    pub struct BlockExportOptions "BlockExportOptions" {
        /// The kind of export.
        "type" kind: BlockExportType,
        /// Its id: a letter, then letters, digits, `-`, `.` and `_`.
        "id" id: String,
        /// Accepted for compatibility: the export's threads never depend on other users of the node.
        "fixed-iothread" fixed_iothread: Option<bool>,
        /// An object of type `iothread` that says how the export's threads wait for work.
        "iothread" iothread: Option<String>,
        /// The node to export.
        "node-name" node_name: String,
        /// Whether clients may write. Off if absent.
        "writable" writable: Option<bool>,
        /// Make every write stable before it completes. Off if absent.
        "writethrough" writethrough: Option<bool>,
        /// Whether the export may exist while its node is inactive. No node ever is; for vhost-user-blk only false is
        /// supported.
        "allow-inactive" allow_inactive: Option<bool>,
    }
    /// The members of its kind.
    pub enum BlockExportTypeOptions by "type" kind: BlockExportType {
        /// `vhost-user-blk`
        VhostUserBlk(BlockExportOptionsVhostUserBlk),
        /// `nbd`
        Nbd(BlockExportOptionsNbd),
    }
}

qapi_enum! {
    /// The kinds of export.
    pub enum BlockExportType "BlockExportType" {
        /// A disk for a virtual machine over vhost-user.
        VhostUserBlk = "vhost-user-blk",
        /// A disk for clients of the NBD server.
        Nbd = "nbd",
    }
    unsupported "Export type" ["fuse", "vduse-blk"]
}

qapi_struct! {
    /// Options of an export over vhost-user.
    pub struct BlockExportOptionsVhostUserBlk "BlockExportOptionsVhostUserBlk" {
        /// The socket for the virtual machine.
        "addr" addr: SocketAddress,
        /// The size in bytes of the blocks that the disk shows to the guest; 512 if absent.
        "logical-block-size" logical_block_size: Option<Size>,
        /// How many queues the disk has, up to 64; 1 if absent.
        "num-queues" num_queues: Option<u16>,
        /// The serial number that the guest reads, up to 20 bytes; the export's id if absent.
        "x-serial" x_serial: Option<String>,
        /// The CPUs that the queues' threads run on, one each in turn; any if absent.
        "x-cpus" x_cpus: Option<Vec<u16>>,
        /// The most nanoseconds that a queue's thread polls before it sleeps; what the I/O thread says if absent.
        "x-poll-max-ns" x_poll_max_ns: Option<u64>,
        /// The file mode of the socket; what the umask leaves of 0777 if absent.
        "x-socket-mode" x_socket_mode: Option<u32>,
        /// The group of the socket, by number.
        "x-socket-group" x_socket_group: Option<u32>,
    }
}

qapi_struct! {
    /// Arguments of `block-export-del`.
    pub struct BlockExportDel "block-export-del-arg" {
        /// The export's id.
        "id" id: String,
        /// What becomes of its clients; safe if absent.
        "mode" mode: Option<BlockExportRemoveMode>,
    }
}

qapi_enum! {
    /// What becomes of the clients of an export that is to end.
    pub enum BlockExportRemoveMode "BlockExportRemoveMode" {
        /// With clients the export does not end.
        Safe = "safe",
        /// Clients are disconnected.
        Hard = "hard",
    }
}

qapi_struct! {
    /// An export.
    pub struct BlockExportInfo "BlockExportInfo" {
        /// Its id.
        "id" id: String,
        /// Its kind.
        "type" kind: BlockExportType,
        /// The node it serves.
        "node-name" node_name: String,
        /// Whether it is ending.
        "shutting-down" shutting_down: bool,
    }
}

impl From<BlockExportRemoveMode> for RemoveMode {
    fn from(mode: BlockExportRemoveMode) -> Self {
        match mode {
            BlockExportRemoveMode::Safe => Self::Safe,
            BlockExportRemoveMode::Hard => Self::Hard,
        }
    }
}

impl From<ExportError> for QmpError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Node(error) => error.into(),
            error => Self::generic(error.to_string()),
        }
    }
}

fn block_export_add(context: &Context, options: BlockExportOptions) -> Result<Empty, QmpError> {
    match options.branch.clone() {
        BlockExportTypeOptions::VhostUserBlk(vhost) => add_vhost(context, options, vhost)?,
        BlockExportTypeOptions::Nbd(nbd) => nbd::add(context, options, nbd)?,
    }
    Ok(Empty {})
}

fn add_vhost(
    context: &Context,
    options: BlockExportOptions,
    vhost: BlockExportOptionsVhostUserBlk,
) -> Result<(), QmpError> {
    if context.exports.list().iter().any(|export| export.id == options.id) {
        return Err(ExportError::IdTaken(options.id).into());
    }
    let node = block::node(context, &options.node_name)?;
    if options.allow_inactive == Some(true) {
        return Err(QmpError::generic("Export type does not support inactive exports"));
    }
    let mut polling = match &options.iothread {
        Some(id) => context.objects.iothread(id)?,
        None => Polling::default(),
    };
    if let Some(max_ns) = vhost.x_poll_max_ns {
        polling = Polling { max_ns };
    }
    let Size(block_size) = vhost.logical_block_size.unwrap_or(Size(LOGICAL_BLOCK_SIZE));
    let logical_block_size = u32::try_from(block_size).map_err(|_| ExportError::BlockSize)?;
    let num_queues = vhost.num_queues.unwrap_or(1);
    if num_queues > QUEUES_MAX {
        return Err(ExportError::TooManyQueues { max: QUEUES_MAX }.into());
    }
    let address = vhost.addr.open(context.origin, vhost.x_socket_mode, vhost.x_socket_group)?;
    context.exports.add_vhost(VhostOptions {
        id: options.id,
        node,
        writable: options.writable.unwrap_or(false),
        writethrough: options.writethrough.unwrap_or(false),
        address,
        logical_block_size,
        num_queues,
        serial: vhost.x_serial,
        polling,
        cpus: vhost.x_cpus.unwrap_or_default().into_iter().map(usize::from).collect(),
    })?;
    Ok(())
}

fn block_export_del(context: &Context, arguments: BlockExportDel) -> Result<Empty, QmpError> {
    let mode = arguments.mode.unwrap_or(BlockExportRemoveMode::Safe);
    context.exports.remove(&arguments.id, mode.into())?;
    Ok(Empty {})
}

fn query_block_exports(context: &Context, _: Empty) -> Result<Vec<BlockExportInfo>, QmpError> {
    let info = |export: ExportInfo| BlockExportInfo {
        id: export.id,
        kind: match export.kind {
            "nbd" => BlockExportType::Nbd,
            _ => BlockExportType::VhostUserBlk,
        },
        node_name: export.node.name().to_owned(),
        shutting_down: export.shutting_down,
    };
    Ok(context.exports.list().into_iter().map(info).collect())
}
