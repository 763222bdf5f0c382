//! What the caller wants of a session: features, memory, queue sizes, ways to be told of completions.

use std::time::Duration;

use crate::features::{ProtocolFeatures, all_protocol_features, feature};
use crate::memory::RegionSpec;

/// How a queue learns of completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// The owner looks at the used ring; the back-end gets a call eventfd and is told not to use it.
    Poll,
    /// The same without a call eventfd. `qemu-storage-daemon` 10 breaks the connection at the first completion
    /// then, if `EVENT_IDX` was negotiated: it always notifies once.
    PollWithoutCall,
    /// The owner sleeps on the call eventfd.
    Wait,
}

/// How the back-end learns of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMessages {
    /// One table with all regions (SET_MEM_TABLE).
    Table,
    /// Region by region (ADD_MEM_REG), if the back-end offers CONFIGURE_MEM_SLOTS; else a table.
    Slots,
}

/// Options of a [`crate::Device`]; [`Default`] is what a Linux guest under QEMU does.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Features acknowledged if offered.
    pub features: u64,
    /// Features without which connecting fails.
    pub required_features: u64,
    /// Protocol features acknowledged if offered.
    pub protocol_features: ProtocolFeatures,
    /// Regions of guest memory, announced in this order. Rings and request headers come from the first one.
    pub memory: Vec<RegionSpec>,
    /// How they are announced.
    pub memory_messages: MemoryMessages,
    /// Descriptors per queue, a power of two.
    pub queue_size: u16,
    /// Queues whose in-flight requests are tracked; at least as many as are started.
    pub queues: u16,
    /// Most data segments in a request with indirect descriptors.
    pub max_segments: u16,
    /// How queues learn of completions.
    pub notify: Notify,
    /// How long connecting is retried.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub reply_timeout: Duration,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        DeviceOptions {
            features: feature::ALL,
            required_features: feature::VERSION_1 | feature::PROTOCOL_FEATURES,
            protocol_features: all_protocol_features(),
            memory: vec![RegionSpec { addr: 0, len: 64 << 20 }],
            memory_messages: MemoryMessages::Table,
            queue_size: 256,
            queues: 1,
            max_segments: 32,
            notify: Notify::Poll,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(30),
        }
    }
}

impl DeviceOptions {
    /// Acknowledges these features or not.
    #[must_use]
    pub fn with_feature(mut self, mask: u64, on: bool) -> Self {
        self.features = if on { self.features | mask } else { self.features & !mask };
        self
    }

    /// Sets number and size of the queues.
    #[must_use]
    pub fn with_queues(mut self, queues: u16, queue_size: u16) -> Self {
        self.queues = queues;
        self.queue_size = queue_size;
        self
    }

    /// Sets how completions are learnt.
    #[must_use]
    pub fn with_notify(mut self, notify: Notify) -> Self {
        self.notify = notify;
        self
    }

    /// Makes guest memory one region of `len` bytes at address 0.
    #[must_use]
    pub fn with_memory(mut self, len: u64) -> Self {
        self.memory = vec![RegionSpec { addr: 0, len }];
        self
    }
}
