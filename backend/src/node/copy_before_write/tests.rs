//! Copy-before-write on a simulated machine; `rig` is what stands there.

mod chunks;
mod errors;
mod once;
mod past;
mod rig;
mod waits;
