//! The guest's side of vhost-user-blk: a front-end that drives a back-end the way a guest's driver would.
//!
//! `tidemark demo`, the benchmarks and the integration tests put load on a serving process through it. Three layers:
//!
//! * [`Device`] is the session: connect, negotiate, share memory, start and stop queues, reconnect after the
//!   back-end died. It sends messages and touches no request.
//! * [`Queue`] has one owner and may move to a thread of its own: it turns a [`Request`] into a descriptor chain and
//!   a used element into a [`Completion`], each submitted request completing exactly once.
//! * [`Ring`] and [`Doorbell`] are the bare split ring and its eventfds. Tests write any descriptor they like there.
//!
//! Guest memory is a set of memfds mapped here and in the back-end ([`GuestMemory`], [`Arena`]). What lies in it is
//! read and written with atomics or volatile copies only, because the back-end changes it at any time; nothing read
//! from it is used as an index before it was checked.
//!
//! It does not know any back-end in particular, nor the disk behind it, and has no `unsafe`.

mod channel;
mod config;
mod device;
mod doorbell;
mod error;
mod features;
mod inflight;
mod memory;
mod options;
mod queue;
mod request;
mod ring;
mod session;

pub use channel::BackendChannel;
pub use config::{BlkConfig, CONFIG_LEN};
pub use device::Device;
pub use doorbell::Doorbell;
pub use error::{Error, Result};
pub use features::{ProtocolFeatures, feature};
pub use inflight::{Inflight, InflightEntry};
pub use memory::{Arena, GuestBuf, GuestMemory, Region, RegionSpec};
pub use options::{DeviceOptions, MemoryMessages, Notify};
pub use queue::Queue;
pub use request::{Completion, Request, Segment, Status, Token, request_type};
pub use ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, Ring, RingLayout, UsedElement};
pub use session::Session;

/// Bytes in the unit virtio-blk counts in, whatever the block size (virtio 1.2, 5.2.4).
pub const SECTOR_SIZE: u64 = 512;
