//! What an operator may say of a vhost-user-blk export.

use crate::node::Node;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Most virtqueues of a device.
pub const QUEUES_MAX: u16 = 64;

/// Options of one export.
#[derive(Debug)]
pub struct VhostOptions {
    /// `id`.
    pub id: String,
    /// The node to serve.
    pub node: Arc<Node>,
    /// `writable`.
    pub writable: bool,
    /// `writethrough`: every write is stable before it completes, and no cache is reported.
    pub writethrough: bool,
    /// Where front-ends connect.
    pub address: Address,
    /// `logical-block-size` in bytes.
    pub logical_block_size: u32,
    /// `num-queues`, up to [`QUEUES_MAX`].
    pub num_queues: u16,
    /// `x-serial`, up to 20 bytes; absent means the id.
    pub serial: Option<String>,
    /// How queue threads wait for work.
    pub polling: Polling,
    /// CPUs the queue threads may run on, one each in turn; empty means any.
    pub cpus: Vec<usize>,
}

/// Where front-ends connect.
#[derive(Debug)]
pub enum Address {
    /// A UNIX socket to create with this mode and group.
    Path {
        /// The path.
        path: PathBuf,
        /// File mode of the socket.
        mode: u32,
        /// Its group, by number.
        group: Option<u32>,
    },
    /// A socket inherited from the starting process: listening, or already connected to the one front-end.
    Fd(OwnedFd),
}

/// How long a queue thread looks for more work before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    /// The most nanoseconds it polls; the actual time grows and shrinks with what polling finds. 0 is no polling.
    pub max_ns: u64,
}

impl Default for Polling {
    /// 8 us: enough for the guest's next requests to be found without a wake-up. QEMU's 32 us are lost to the other
    /// queue when two share a core: 1.4 us of CPU per cached 4k read with two queues, where 8 us leave it at 1.04.
    fn default() -> Self {
        Self { max_ns: 8_192 }
    }
}
