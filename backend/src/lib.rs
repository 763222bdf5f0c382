//! The data plane: exports over a graph of nodes over reactors over kernel I/O.
//!
//! The only crate with `unsafe`, and only in the files that deal with memory others can see. Knows no JSON and no QMP.
//! Modules from bottom to top; none uses one that stands below it in this list:
//! `error`, `io`, `mailbox`, `reactor`, `range_lock`, `node`, `graph`, `event`, `export`.

pub mod error;
pub mod event;
pub mod export;
pub mod graph;
pub mod io;
pub mod mailbox;
pub mod node;
mod range_lock;
pub mod reactor;
mod sync;
