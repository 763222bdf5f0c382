//! Disks over NBD, from outside: the real daemon with clients nobody here wrote, beside `qemu-storage-daemon` where both
//! have to do the same.

mod clients;
mod cycle;
mod hostile;
mod inherited;
mod node;
mod servers;
mod site;
pub mod tls;
mod wire;
