//! The real daemon from outside: its protocols, beside the programs it stands in for.

// The exception for tests covers the test functions alone, and not what they call.
#![allow(clippy::unwrap_used)]

mod cli;
mod nbd;
mod qmp;
mod vhost;
