//! The program from its command line: what it does with it, what it leaves behind, how it ends.

mod background;
mod backup;
mod backups;
mod bitmap;
mod check;
mod control;
pub mod grown;
mod images;
mod info;
mod options;
pub mod process;
mod serve;
pub mod small;
mod socket;
mod tools;
mod track;
