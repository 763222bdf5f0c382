//! Jobs with scripted bodies on a simulated reactor. What is expected of events was written down from
//! `qemu-storage-daemon` 10.0.2 doing backups of null-co nodes, without the running-paused-running pairs it shows around
//! drained sections.

mod commands;
mod context;
mod groups;
mod lifecycle;
mod mirrors;
mod rig;
mod table;
mod thread;
