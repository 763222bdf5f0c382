//! Headers against the tools of QEMU: what they wrote is understood, what they refuse is refused, what is written here
//! they read.

mod images;
mod read;
mod refused;
mod written;
