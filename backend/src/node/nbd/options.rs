//! What an operator may say of an NBD node.

use crate::tls;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Members of driver `nbd`; names and defaults are those of QEMU's `BlockdevOptionsNbd`.
#[derive(Clone, Debug)]
pub struct NbdClientOptions {
    /// `server`.
    pub server: NbdServer,
    /// `export`: its name; empty for the server's default.
    pub export: String,
    /// `tls-creds`: the object's name.
    pub tls_creds: Option<String>,
    /// The credentials that it stands for.
    pub tls: Option<Arc<tls::Client>>,
    /// `tls-hostname`: whose certificate it has to be, if not that of the address's host.
    pub tls_hostname: Option<String>,
    /// `x-dirty-bitmap`: the context that is asked for instead of `base:allocation`.
    pub dirty_bitmap: Option<String>,
    /// `reconnect-delay`: how long requests wait for a new connection before they fail.
    pub reconnect_delay: Duration,
    /// `open-timeout`: how long a server that is not there yet is waited for.
    pub open_timeout: Duration,
    /// `x-connections`: at most so many, if the server can have several.
    pub connections: u32,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdServer {
    /// A UNIX socket.
    Unix(PathBuf),
    /// TCP.
    Tcp {
        /// A name or an address.
        host: String,
        /// A number.
        port: String,
    },
}

impl NbdClientOptions {
    /// Whose certificate the server has to show.
    pub(super) fn certified_name(&self) -> Option<&str> {
        match (&self.tls_hostname, &self.server) {
            (Some(name), _) => Some(name),
            (None, NbdServer::Tcp { host, .. }) => Some(host),
            (None, NbdServer::Unix(_)) => None,
        }
    }

    /// The first option that is otherwise in `other`.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        let same = [
            ("server", self.server == other.server),
            ("export", self.export == other.export),
            ("tls-creds", self.tls_creds == other.tls_creds),
            ("tls-hostname", self.tls_hostname == other.tls_hostname),
            ("x-dirty-bitmap", self.dirty_bitmap == other.dirty_bitmap),
            ("reconnect-delay", self.reconnect_delay == other.reconnect_delay),
            ("open-timeout", self.open_timeout == other.open_timeout),
            ("x-connections", self.connections == other.connections),
        ];
        same.into_iter().find(|(_, same)| !same).map(|(option, _)| option)
    }

    /// The address as QEMU shows it.
    pub fn uri(&self) -> String {
        let export = &self.export;
        match &self.server {
            NbdServer::Unix(path) if export.is_empty() => format!("nbd+unix://?socket={}", path.display()),
            NbdServer::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            NbdServer::Tcp { host, port } if export.is_empty() => format!("nbd://{host}:{port}"),
            NbdServer::Tcp { host, port } => format!("nbd://{host}:{port}/{export}"),
        }
    }
}
