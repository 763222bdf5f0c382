//! The two daemons compared.

use std::path::Path;

use crate::cli::Options;

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

    /// Its program.
    pub fn program(self, options: &Options) -> &Path {
        match self {
            Peer::Tidemark => &options.tidemark,
            Peer::Qsd => &options.qsd,
        }
    }
}
