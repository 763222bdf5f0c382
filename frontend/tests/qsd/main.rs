//! The front-end against `qemu-storage-daemon`, a back-end nobody here wrote.
//!
//! Each test starts a daemon of its own on a file in a temporary directory and looks at the file afterwards, so that
//! what the front-end reports is checked against what reached the disk. Without the program installed they fail:
//! `make test` installs it.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod completes;
mod daemon;
mod negotiates;
mod recovers;
mod refuses;
