//! The NBD server and what it exports.
//!
//! Knows the options of both and the deprecated commands that are short for others; the server is the back end's.

use std::time::Duration;

use tidemark_backend::export::ExportError;
use tidemark_backend::export::nbd::{NbdBitmap, NbdOptions, NbdServerOptions};

use super::address::SocketAddress;
use super::legacy::SocketAddressLegacy;
use super::{BlockExportOptions, BlockExportRemoveMode};
use crate::bitmap::BlockDirtyBitmapOrStr;
use crate::block;
use crate::command::declare_commands;
use crate::context::Context;
use crate::error::QmpError;
use crate::keyval;
use crate::schema::{Empty, Input, Qapi as _, qapi_struct};

/// `max-connections` if nothing is said.
const MAX_CONNECTIONS: u32 = 100;
/// `handshake-max-seconds` if nothing is said.
const HANDSHAKE_MAX_SECONDS: u32 = 10;

declare_commands! {
    /// Starts the NBD server. Exports of type nbd are shown by it; without them it has nothing to show.
    "nbd-server-start" => nbd_server_start: (NbdServerStart) -> Empty;
    /// Ends the NBD server, with its exports and their clients. `BLOCK_EXPORT_DELETED` tells when each is gone.
    "nbd-server-stop" => nbd_server_stop: (Empty) -> Empty;
    /// Exports a node by the NBD server. Deprecated: `block-export-add` does the same and more.
    "nbd-server-add" => nbd_server_add: (NbdServerAdd) -> Empty;
    /// Ends an export by its id. Deprecated: `block-export-del` does the same.
    "nbd-server-remove" => nbd_server_remove: (NbdServerRemove) -> Empty;
}

qapi_struct! {
    /// Arguments of `nbd-server-start`.
    pub struct NbdServerStart "nbd-server-start-arg" {
        /// Where clients connect.
        "addr" addr: SocketAddressLegacy,
        /// How long a client may take to choose an export before it is disconnected; 0 is as long as it likes. 10 if
        /// absent.
        "handshake-max-seconds" handshake_max_seconds: Option<u32>,
        /// An object of type `tls-creds-x509` with endpoint `server`. With it no client is served without TLS.
        "tls-creds" tls_creds: Option<String>,
        /// An object of type `authz-simple` or `authz-list` that says whose certificates are let in, by the distinguished
        /// name. It is looked for when a client comes; if it is not there, nobody is let in.
        "tls-authz" tls_authz: Option<String>,
        /// The most clients at a time; 0 is any number. With 1, clients are told not to connect twice. 100 if absent.
        "max-connections" max_connections: Option<u32>,
    }
}

qapi_struct! {
    /// The option `--nbd-server` of the command line.
    pub struct NbdServer "NbdServerOptions" {
        /// Where clients connect.
        "addr" addr: SocketAddress,
        /// How long a client may take to choose an export before it is disconnected; 0 is as long as it likes. 10 if
        /// absent.
        "handshake-max-seconds" handshake_max_seconds: Option<u32>,
        /// An object of type `tls-creds-x509` with endpoint `server`. With it no client is served without TLS.
        "tls-creds" tls_creds: Option<String>,
        /// An object of type `authz-simple` or `authz-list` that says whose certificates are let in, by the distinguished
        /// name. It is looked for when a client comes; if it is not there, nobody is let in.
        "tls-authz" tls_authz: Option<String>,
        /// The most clients at a time; 0 is any number. With 1, clients are told not to connect twice. 100 if absent.
        "max-connections" max_connections: Option<u32>,
    }
}

qapi_struct! {
    /// Options of an export by the NBD server.
    pub struct BlockExportOptionsNbd "BlockExportOptionsNbd" {
        /// The name by which clients ask for it, up to 4096 bytes; the node's name if absent.
        "name" name: Option<String>,
        /// What clients that list the exports are told of it, up to 4096 bytes.
        "description" description: Option<String>,
        /// Bitmaps that clients may ask for as `qemu:dirty-bitmap:NAME`. Nothing else may use them meanwhile.
        "bitmaps" bitmaps: Option<Vec<BlockDirtyBitmapOrStr>>,
        /// Whether clients may ask how deep in the chain of images a part is, as `qemu:allocation-depth`. Off if absent.
        "allocation-depth" allocation_depth: Option<bool>,
    }
}

qapi_struct! {
    /// Arguments of `nbd-server-add`.
    pub struct NbdServerAdd "nbd-server-add-arg" {
        /// The name by which clients ask for it, which is the export's id too; the node's name if absent.
        "name" name: Option<String>,
        /// What clients that list the exports are told of it.
        "description" description: Option<String>,
        /// The node to export.
        "device" device: String,
        /// Whether clients may write, if the node can be written to. Off if absent.
        "writable" writable: Option<bool>,
        /// A bitmap that clients may ask for as `qemu:dirty-bitmap:NAME`.
        "bitmap" bitmap: Option<String>,
    }
}

qapi_struct! {
    /// Arguments of `nbd-server-remove`.
    pub struct NbdServerRemove "nbd-server-remove-arg" {
        /// The export's id.
        "name" name: String,
        /// What becomes of its clients; safe if absent.
        "mode" mode: Option<BlockExportRemoveMode>,
    }
}

/// Exports a node by the server.
pub(super) fn add(context: &Context, options: BlockExportOptions, nbd: BlockExportOptionsNbd) -> Result<(), QmpError> {
    // There is one set of threads for all exports of the server, which wait for work as they see fit.
    if let Some(id) = &options.iothread {
        context.objects.iothread(id)?;
    }
    context.exports.add_nbd(NbdOptions {
        id: options.id,
        name: nbd.name.unwrap_or_else(|| options.node_name.clone()),
        node: options.node_name,
        description: nbd.description,
        writable: options.writable.unwrap_or(false),
        writethrough: options.writethrough.unwrap_or(false),
        bitmaps: nbd.bitmaps.unwrap_or_default().into_iter().map(Into::into).collect(),
        allocation_depth: nbd.allocation_depth.unwrap_or(false),
    })?;
    Ok(())
}

impl From<BlockDirtyBitmapOrStr> for NbdBitmap {
    fn from(bitmap: BlockDirtyBitmapOrStr) -> Self {
        match bitmap {
            BlockDirtyBitmapOrStr::Local(name) => Self { node: None, name },
            BlockDirtyBitmapOrStr::External(bitmap) => Self { node: Some(bitmap.node), name: bitmap.name },
        }
    }
}

impl From<NbdServerStart> for NbdServer {
    fn from(start: NbdServerStart) -> Self {
        Self {
            addr: start.addr.into(),
            handshake_max_seconds: start.handshake_max_seconds,
            tls_creds: start.tls_creds,
            tls_authz: start.tls_authz,
            max_connections: start.max_connections,
        }
    }
}

impl NbdServer {
    /// Starts the server that the option `--nbd-server` describes.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub(crate) fn start_option(context: &Context, option: &str) -> Result<(), QmpError> {
        let (arguments, mode) = keyval::parse_option(option, None)?;
        Self::decode(Input::new(&arguments, mode))?.start(context)
    }

    fn start(self, context: &Context) -> Result<(), QmpError> {
        if context.exports.has_nbd_server() {
            return Err(ExportError::ServerRunning.into());
        }
        let address = self.addr.listen(context.origin)?;
        let authz = self.tls_authz.as_deref();
        if authz.is_some() && self.tls_creds.is_none() {
            return Err(QmpError::generic(
                "tls-authz without tls-creds is not supported: nobody would be asked for a name",
            ));
        }
        let tls = self.tls_creds.map(|id| context.objects.tls_server_for(&id, authz)).transpose()?;
        let seconds = self.handshake_max_seconds.unwrap_or(HANDSHAKE_MAX_SECONDS);
        context.exports.start_nbd_server(NbdServerOptions {
            address,
            tls,
            max_connections: self.max_connections.unwrap_or(MAX_CONNECTIONS),
            handshake_max: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
        })?;
        Ok(())
    }
}

fn nbd_server_start(context: &Context, server: NbdServerStart) -> Result<Empty, QmpError> {
    NbdServer::from(server).start(context)?;
    Ok(Empty {})
}

fn nbd_server_stop(context: &Context, _: Empty) -> Result<Empty, QmpError> {
    context.exports.stop_nbd_server()?;
    Ok(Empty {})
}

fn nbd_server_add(context: &Context, arguments: NbdServerAdd) -> Result<Empty, QmpError> {
    let device = &arguments.device;
    let node = context.graph.find(device).ok_or_else(|| block::not_found(device, device))?;
    let name = arguments.name.unwrap_or_else(|| arguments.device.clone());
    context.exports.add_nbd(NbdOptions {
        id: name.clone(),
        node: arguments.device,
        name,
        description: arguments.description,
        // As with QEMU, which for this command alone makes the best of a read-only node.
        writable: arguments.writable.unwrap_or(false) && !node.is_read_only(),
        writethrough: false,
        bitmaps: arguments.bitmap.into_iter().map(|name| NbdBitmap { node: None, name }).collect(),
        allocation_depth: false,
    })?;
    Ok(Empty {})
}

fn nbd_server_remove(context: &Context, arguments: NbdServerRemove) -> Result<Empty, QmpError> {
    let mode = arguments.mode.unwrap_or(BlockExportRemoveMode::Safe);
    context.exports.remove(&arguments.name, mode.into())?;
    Ok(Empty {})
}
