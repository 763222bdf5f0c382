//! The options of driver `nbd`.
//!
//! Knows its members and defaults, and where credentials are; connects to nobody.

use std::sync::Arc;
use std::time::Duration;

use tidemark_backend::node::NodeOptions;
use tidemark_backend::node::options::{Backing, ChildRef, DriverOptions, NbdClientOptions};

use crate::error::QmpError;
use crate::export::address::SocketAddress;
use crate::object::Objects;
use crate::schema::qapi_struct;

/// Connections to a server that can have several.
const CONNECTIONS: u32 = 4;

qapi_struct! {
    /// Options of driver `nbd`: a disk that a server of the Network Block Device protocol has.
    pub struct BlockdevOptionsNbd "BlockdevOptionsNbd" {
        /// Where the server is.
        "server" server: SocketAddress,
        /// The name of its export; its default if absent.
        "export" export: Option<String>,
        /// An object of type `tls-creds-x509` with endpoint client. Without TLS if absent.
        "tls-creds" tls_creds: Option<String>,
        /// The name that the server's certificate has to be for, if it is not the address's host.
        "tls-hostname" tls_hostname: Option<String>,
        /// The metadata context to ask for instead of `base:allocation`, as `qemu:dirty-bitmap:NAME`: what it marks
        /// counts as a hole.
        "x-dirty-bitmap" x_dirty_bitmap: Option<String>,
        /// How many seconds requests wait for a connection after one was lost, before they fail; 0 if absent. With either, a
        /// new connection is made in the background.
        "reconnect-delay" reconnect_delay: Option<u32>,
        /// How many seconds to go on trying to connect when the node is opened; 0, once, if absent.
        "open-timeout" open_timeout: Option<u32>,
        /// The most connections to a server that can have several; 4 if absent.
        "x-connections" x_connections: Option<u32>,
    }
}

impl TryFrom<BlockdevOptionsNbd> for NbdClientOptions {
    type Error = QmpError;

    fn try_from(options: BlockdevOptionsNbd) -> Result<Self, QmpError> {
        let seconds = |seconds: Option<u32>| Duration::from_secs(seconds.unwrap_or(0).into());
        Ok(Self {
            server: options.server.connect()?,
            export: options.export.unwrap_or_default(),
            tls_creds: options.tls_creds,
            tls: None,
            tls_hostname: options.tls_hostname,
            dirty_bitmap: options.x_dirty_bitmap,
            reconnect_delay: seconds(options.reconnect_delay),
            open_timeout: seconds(options.open_timeout),
            connections: options.x_connections.unwrap_or(CONNECTIONS),
        })
    }
}

/// Puts credentials in the place of their names, in a node's options and those of the nodes defined inside.
pub(super) fn find_credentials(options: &mut NodeOptions, objects: &Objects) -> Result<(), QmpError> {
    if let DriverOptions::Nbd(nbd) = &mut options.driver
        && let Some(id) = &nbd.tls_creds
    {
        let client = objects.tls_client(id)?;
        Arc::make_mut(nbd).tls = Some(client);
    }
    children(&mut options.driver).into_iter().try_for_each(|child| match child {
        ChildRef::Inline(options) => find_credentials(options, objects),
        ChildRef::Name(_) => Ok(()),
    })
}

fn children(driver: &mut DriverOptions) -> Vec<&mut ChildRef> {
    match driver {
        DriverOptions::Raw(raw) => vec![&mut raw.file],
        DriverOptions::BlkDebug(debug) => vec![&mut debug.image],
        DriverOptions::CopyBeforeWrite(copy) => vec![&mut copy.file, &mut copy.target],
        DriverOptions::SnapshotAccess(file) => vec![file],
        DriverOptions::Qcow2(qcow2) => {
            let backing = match &mut qcow2.backing {
                Backing::Node(node) => Some(node),
                Backing::FromHeader | Backing::None => None,
            };
            std::iter::once(&mut qcow2.file).chain(&mut qcow2.data_file).chain(backing).collect()
        }
        DriverOptions::File(_) | DriverOptions::Null(_) | DriverOptions::Nbd(_) => Vec::new(),
    }
}
