//! What reference counts promise, over the simulated kernel and against QEMU.

mod broken;
mod check;
mod counts;
mod machine;
mod order;
mod space;
mod tail;
