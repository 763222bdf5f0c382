//! The disk that the daemon serves, from the guest's side: a vhost-user front-end against the real program.

mod bitmaps;
mod changed_extents;
mod changes;
mod crash;
pub mod daemon;
mod device;
mod direct;
mod driver;
mod failure;
mod flipped;
pub mod guest;
mod idle;
mod inflight;
mod lifecycle;
pub mod load;
mod malformed;
mod memory;
mod messages;
mod qcow2;
pub mod record;
mod reopen;
mod requests;
mod snapshots;
mod spared;
mod stop;
