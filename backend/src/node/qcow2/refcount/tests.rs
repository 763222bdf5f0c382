//! What reference counts promise, over the simulated kernel and against QEMU.

mod machine;
mod space;
