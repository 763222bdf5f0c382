//! What the benchmarks of whole daemons share: starting one, a guest that loads it, statistics, tables.
//!
//! Daemons are reached through their command line, a control socket and vhost-user sockets only; nothing here knows how
//! one is built, nor what is measured with it. `macro-bench` measures the data path, `points-bench` points in time,
//! `qcow2-bench` images, `nbd-bench` the NBD server, `convert-bench` the conversion of images.

pub mod awake;
pub mod case;
pub mod clocked;
pub mod contender;
pub mod cpu;
pub mod daemon;
pub mod images;
pub mod load;
pub mod monitor;
pub mod report;
pub mod statistics;
pub mod steps;
pub mod storage;
pub mod table;
pub mod turns;
