//! `tidemark backup` beside both daemons and a guest that writes all the while: each point is what the guest had then,
//! whoever is killed, and what is damaged is found.

mod bad;
mod damage;
mod disks;
mod kill;
mod place;
mod points;
mod pull;
mod restore;
mod vm;
mod why;
