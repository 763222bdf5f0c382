//! A real Linux guest under QEMU (software emulation) on a disk of the daemon.
//!
//! Every test is something a user of a virtual machine does with its disk, judged from inside the guest,
//! and where the promise is about the host, from the image file. Nothing here knows how the daemon works:
//! `TIDEMARK_TEST_PEER=qsd` runs the same tests against `qemu-storage-daemon`, which tells a wrong test
//! from a wrong daemon. The guest's kernel log has to be free of complaints at the end of each test.
//!
//! `make guest-deps` installs QEMU and builds the guest's image; without them the tests fail.

mod backend;
mod console;
mod guest;
mod image;
mod machine;
mod process;
mod qmp;
mod restore;

mod backup;
mod boot;
mod chain;
mod crash;
mod discard;
mod features;
mod filesystem;
mod geometry;
mod half_backup;
mod hotplug;
mod pair;
mod qcow2;
mod resize;
mod serve;
mod verify;
