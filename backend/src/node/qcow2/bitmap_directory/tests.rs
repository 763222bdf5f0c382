//! Bitmaps of QEMU read here, bitmaps written here in the eyes of QEMU.

mod bits;
mod image;
mod refused;
mod stored;
