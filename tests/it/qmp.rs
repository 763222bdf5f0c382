//! QMP over the daemon's real monitor, beside `qemu-storage-daemon` and with clients nobody here wrote.

mod arguments;
mod bitmaps;
mod changed;
mod clusters;
mod commands;
mod corruption;
mod creation;
pub mod daemon;
mod drives;
mod errors;
mod fleecing;
mod images;
mod locks;
mod options;
mod python;
mod resize;
pub mod schema;
mod scripts;
