//! What an operator may say of the NBD server and of the exports that it has.

use crate::tls;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Options of the server (`nbd-server-start`).
#[derive(Debug)]
pub struct NbdServerOptions {
    /// Where clients connect.
    pub address: NbdAddress,
    /// With credentials every client has to speak TLS before anything else (`tls-creds`).
    pub tls: Option<Arc<tls::Server>>,
    /// `max-connections`: clients at the same time; 0 is any number. With 1 no client is told that it may connect twice.
    pub max_connections: u32,
    /// `handshake-max-seconds`: a client that has not chosen an export by then is disconnected.
    pub handshake_max: Option<Duration>,
}

/// Where clients connect.
#[derive(Debug)]
pub enum NbdAddress {
    /// A UNIX socket to create.
    Unix(PathBuf),
    /// A TCP port of this machine, or of one address of it.
    Tcp {
        /// A name or an address; empty is any address.
        host: String,
        /// A number or the name of a service; 0 is one that is free.
        port: String,
    },
    /// A socket that listens already.
    Fd(OwnedFd),
}

/// Options of one export (`block-export-add`, type `nbd`).
#[derive(Clone, Debug)]
pub struct NbdOptions {
    /// `id`.
    pub id: String,
    /// `node-name`.
    pub node: String,
    /// `name`, by which clients ask for it: up to 4096 bytes.
    pub name: String,
    /// `description`, up to 4096 bytes.
    pub description: Option<String>,
    /// `writable`.
    pub writable: bool,
    /// `writethrough`: every write is stable before it is answered.
    pub writethrough: bool,
    /// `bitmaps`: what clients may ask for as `qemu:dirty-bitmap:NAME`.
    pub bitmaps: Vec<NbdBitmap>,
    /// `allocation-depth`: whether clients may ask for `qemu:allocation-depth`.
    pub allocation_depth: bool,
}

/// A bitmap of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdBitmap {
    /// The node that has it; if absent it is looked for from the export's node downwards, along filters and backing files.
    pub node: Option<String>,
    /// Its name.
    pub name: String,
}
