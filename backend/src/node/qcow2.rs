//! Driver `qcow2`: an image that maps guest clusters to clusters of a file.
//!
//! It answers where a guest's bytes are; it moves data only where the format asks for it (copy on write, compressed
//! clusters). Sources: the qcow2 specification of QEMU (docs/interop/qcow2), version 3.

pub mod bitmap_directory;
pub mod bitmaps;
pub mod cache;
pub mod changes;
pub mod compressed;
pub mod corruption;
pub mod create;
pub mod description;
pub mod entry;
mod extended;
pub mod freed;
mod guarded;
pub mod header;
pub mod image;
pub mod inactive;
pub mod journal;
pub mod l2;
pub mod map;
pub mod open;
pub mod options;
pub mod own_header;
mod populate;
pub mod read;
pub mod refcount;
pub mod reopen;
mod repair;
pub mod reserve;
pub mod resize;
pub mod settling;
pub mod shortcut;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod tables;
pub mod write;
pub mod writeback;
pub mod zero;

#[cfg(test)]
mod tests;
