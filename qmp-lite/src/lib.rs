//! The control socket: QMP's wire format, schema, commands and events.
//!
//! The only crate that knows JSON. It knows the graph and the exports of the back end, not how either
//! does its I/O, and that jobs run beside them. Every command, argument and result is declared once, as a Rust type; what
//! `query-commands`, `query-qmp-schema` and the reference say is generated from those declarations.

pub mod bitmap;
pub mod block;
pub mod chain;
pub mod changed;
pub mod chardev;
pub mod client;
pub mod command;
pub mod context;
pub mod differences;
pub mod dispatch;
pub mod document;
pub mod error;
pub mod event;
pub mod export;
pub mod inherited;
pub mod internal;
pub mod job;
pub mod keyval;
pub mod monitor;
pub mod object;
pub mod qmp;
pub mod reference;
pub mod schema;
pub mod session;
pub mod snapshot;
pub mod transaction;
pub mod wire;
