//! The NBD server: exports over the protocol of network block devices, for backup programs and other machines.
//!
//! From the outside in: `listener` accepts, `pool` has the threads, `connection` is one client's; `handshake` is what it
//! says before it has chosen an export, `service` receives what it asks then, within `limits`, `perform` does that. Knows
//! no QMP.

mod buffers;
mod clients;
mod connection;
mod export;
mod extents;
mod handshake;
mod limits;
mod listener;
mod options;
mod perform;
mod pool;
mod reply;
mod request;
mod server;
mod service;
mod status;
#[cfg(test)]
mod tests;

pub use options::{NbdAddress, NbdBitmap, NbdOptions, NbdServerOptions};

pub(super) use export::NbdExport;
pub(super) use server::NbdServer;
