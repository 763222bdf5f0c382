//! The vhost-user-blk export: guest memory, split virtqueues, the session with the front-end.

pub mod inflight;
pub mod memory;
pub mod ring;
