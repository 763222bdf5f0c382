//! The options of driver `nbd`.
//!
//! Knows its members and defaults; connects to nobody.

use std::time::Duration;

use tidemark_backend::node::options::NbdClientOptions;

use crate::error::QmpError;
use crate::export::address::SocketAddress;
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
