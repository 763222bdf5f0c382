//! The program from its command line: what it does with it, what it leaves behind, how it ends.

mod background;
mod backup;
mod control;
mod grown;
mod options;
pub mod process;
mod serve;
mod socket;
