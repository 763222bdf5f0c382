//! The server from outside: QEMU's and libnbd's programs on its socket, the same bytes said to it and to QEMU, clients
//! that mean no good, and connections on the simulator that end at any byte.

mod beside;
mod driver;
mod foreign;
mod hostile;
mod served;
mod simulated;
mod wire;
