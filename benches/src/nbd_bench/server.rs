//! The two daemons, each with a disk that clients reach by NBD on a UNIX socket.

use std::path::Path;

use anyhow::Result;
use tidemark_benches::cpu::Machine;
use tidemark_benches::daemon::Daemon;

use crate::cli::Options;

/// The node, the export and its name.
pub const DISK: &str = "d";
const SOCKET: &str = "nbd";

/// A daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The one under test.
    Tidemark,
    /// qemu-storage-daemon.
    Qsd,
}

impl Peer {
    /// Both.
    pub const BOTH: [Peer; 2] = [Peer::Tidemark, Peer::Qsd];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Tidemark => "tidemark",
            Peer::Qsd => "qsd",
        }
    }

    fn program(self, options: &Options) -> &Path {
        match self {
            Peer::Tidemark => &options.tidemark,
            Peer::Qsd => &options.qsd,
        }
    }
}

/// A daemon that listens.
pub struct Server {
    /// The daemon.
    pub daemon: Daemon,
    uri: String,
}

impl Server {
    /// Starts a daemon with nodes, and an NBD server that has no exports if `export` is `None`.
    ///
    /// # Errors
    /// If it does not listen; its log is part of the error.
    pub fn start(
        peer: Peer,
        blockdevs: &[String],
        export: Option<&str>,
        options: &Options,
        machine: &Machine,
    ) -> Result<Server> {
        let daemon = Daemon::start_with(peer.program(options), blockdevs, machine, |dir| {
            let server = format!("--nbd-server=addr.type=unix,addr.path={}", dir.join(SOCKET).display());
            [server].into_iter().chain(export.map(|export| format!("--export={export}"))).collect()
        })?;
        // What comes up last.
        daemon.monitor()?;
        let uri = format!("nbd+unix:///{DISK}?socket={}", daemon.socket(SOCKET)?.display());
        Ok(Server { daemon, uri })
    }

    /// Where clients find the disk.
    pub fn uri(&self) -> &str {
        &self.uri
    }
}
