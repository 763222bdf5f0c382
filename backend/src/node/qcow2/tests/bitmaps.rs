//! Persistent bitmaps, from QEMU's tools to us and back, and through crashes on the simulated kernel.

mod crash;
mod cuts;
mod edits;
mod foreign;
mod interop;
mod kept;
pub(super) mod made;
pub(super) mod opened;
