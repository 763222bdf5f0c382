//! The data plane: exports, graph, nodes, reactor, I/O. The only crate with unsafe code.

pub mod export;
