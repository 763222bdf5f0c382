//! Images whose metadata contradicts itself: who operates them is told, the block concerned fails, what is written does
//! not end up in metadata, and nothing hangs.

mod entries;
mod opening;
mod outside;
pub mod rig;
mod tables;
