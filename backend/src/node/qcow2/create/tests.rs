//! Images made here, in the eyes of QEMU.

mod made;
mod refused;
