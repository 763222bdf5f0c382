//! The Network Block Device protocol as bytes, for both ends: no I/O, no state, every length bounded.
//!
//! The numbers are those of the protocol's description, doc/proto.md of the NBD project. A decoder looks at no byte it
//! was not given, and what it allocates is bounded by what stands beside it.

pub mod handshake;
pub mod transmission;
