//! What every node promises, over the simulated kernel; `bench` is where they stand.

mod bench;
mod blkdebug;
mod direct;
mod extent;
mod flush;
mod graph;
mod lock;
mod permissions;
mod raw;
mod zero;
