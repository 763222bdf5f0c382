//! Throttled nodes on a simulated machine, whose time passes only while everybody waits.

mod buckets;
mod disks;
mod rig;
