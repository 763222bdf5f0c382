//! QMP over the daemon's real monitor, beside `qemu-storage-daemon` and with clients nobody here wrote.

mod arguments;
mod commands;
pub mod daemon;
mod errors;
mod images;
mod options;
mod python;
mod schema;
mod scripts;
