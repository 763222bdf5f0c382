//! The real daemon from outside: its protocols, beside the programs it stands in for.

mod cli;
mod qmp;
