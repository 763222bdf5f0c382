//! Exports: what hands a node to the world. Knows nodes; does not know QMP or the command line.

pub mod vhost;
