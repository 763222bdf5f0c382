//! The NBD server: exports over the protocol of network block devices, for backup programs and other machines.
//!
//! From the outside in: `listener` accepts, `pool` has the threads, `connection` is one client's, `handshake` what it
//! says before it has chosen an export, `transmission` what it asks of it. Knows no QMP.

mod clients;
mod connection;
mod export;
mod listener;
mod options;
mod pool;
mod server;

pub use options::{NbdAddress, NbdBitmap, NbdOptions, NbdServerOptions};

pub(super) use export::NbdExport;
pub(super) use server::NbdServer;
