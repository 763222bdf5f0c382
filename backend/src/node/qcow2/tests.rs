//! Images as guests use them, on the simulated kernel and beside QEMU.

mod bitmaps;
mod broken;
mod changes;
mod compressing;
mod contested;
mod differential;
mod dirty;
mod full;
mod machine;
mod model;
mod offline;
mod parts;
mod random;
mod reading;
mod rebased;
mod repairing;
mod replay;
mod resize;
mod reuse;
mod rig;
mod shrunk;
mod snapshots;
mod unsure;
