//! The data plane: exports over a graph of nodes over reactors over kernel I/O.
//!
//! The only crate with `unsafe`, and only in the files that deal with memory others can see. Knows no JSON and no QMP.
//! Modules from bottom to top; none uses one that stands below it in this list:
//! `error`, `io`, `mailbox`, `reactor`, `tls`, `stream`, `nbd_wire`, `range_lock`, `epoch`, `bitmaps`,
//! `node`, `graph`, `event`, `export`.
//!
//! Under `--cfg loom` only the mailbox, the epochs and the tables' cache are built: the rest hands std's `Arc` around.

#[cfg(not(loom))]
pub mod bitmaps;
pub mod epoch;
#[cfg(not(loom))]
pub mod error;
#[cfg(not(loom))]
pub mod event;
#[cfg(not(loom))]
pub mod export;
#[cfg(not(loom))]
pub mod graph;
#[cfg(not(loom))]
pub mod io;
pub mod mailbox;
#[cfg(not(loom))]
pub mod nbd_wire;
#[cfg(not(loom))]
pub mod node;
/// What of the nodes is checked under loom.
#[cfg(loom)]
pub mod node {
    /// As above.
    pub mod qcow2 {
        pub mod cache;
    }
}
#[cfg(not(loom))]
mod range_lock;
#[cfg(not(loom))]
pub mod reactor;
#[cfg(not(loom))]
pub mod stream;
mod sync;
#[cfg(not(loom))]
pub mod tls;
