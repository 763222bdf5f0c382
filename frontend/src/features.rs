//! Feature bits of virtio-blk and of vhost-user, as numbers one can mask.
//!
//! It decides nothing: what is asked for stands in [`crate::DeviceOptions`].

use virtio_bindings::{virtio_blk, virtio_config, virtio_ring};

pub use vhost::vhost_user::message::VhostUserProtocolFeatures as ProtocolFeatures;

/// Virtio feature bits as masks (virtio 1.2, 5.2.3 and 6; vhost-user for bit 30).
pub mod feature {
    use super::{virtio_blk, virtio_config, virtio_ring};

    /// A segment's length is limited.
    pub const SIZE_MAX: u64 = 1 << virtio_blk::VIRTIO_BLK_F_SIZE_MAX;
    /// The number of segments is limited.
    pub const SEG_MAX: u64 = 1 << virtio_blk::VIRTIO_BLK_F_SEG_MAX;
    /// The disk cannot be written.
    pub const RO: u64 = 1 << virtio_blk::VIRTIO_BLK_F_RO;
    /// The block size is reported.
    pub const BLK_SIZE: u64 = 1 << virtio_blk::VIRTIO_BLK_F_BLK_SIZE;
    /// The flush request exists.
    pub const FLUSH: u64 = 1 << virtio_blk::VIRTIO_BLK_F_FLUSH;
    /// Alignment is reported.
    pub const TOPOLOGY: u64 = 1 << virtio_blk::VIRTIO_BLK_F_TOPOLOGY;
    /// The driver may switch the write cache.
    pub const CONFIG_WCE: u64 = 1 << virtio_blk::VIRTIO_BLK_F_CONFIG_WCE;
    /// Several queues.
    pub const MQ: u64 = 1 << virtio_blk::VIRTIO_BLK_F_MQ;
    /// The discard request exists.
    pub const DISCARD: u64 = 1 << virtio_blk::VIRTIO_BLK_F_DISCARD;
    /// The write-zeroes request exists.
    pub const WRITE_ZEROES: u64 = 1 << virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES;
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
    /// Notifications are asked for by index.
    pub const EVENT_IDX: u64 = 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;
    /// vhost-user protocol features exist.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1;

    /// Everything this front-end can drive.
    pub const ALL: u64 = SIZE_MAX
        | SEG_MAX
        | RO
        | BLK_SIZE
        | FLUSH
        | TOPOLOGY
        | CONFIG_WCE
        | MQ
        | DISCARD
        | WRITE_ZEROES
        | INDIRECT_DESC
        | EVENT_IDX
        | PROTOCOL_FEATURES
        | VERSION_1;
}

/// The protocol features this front-end can drive.
pub(crate) fn all_protocol_features() -> ProtocolFeatures {
    ProtocolFeatures::MQ
        | ProtocolFeatures::REPLY_ACK
        | ProtocolFeatures::CONFIG
        | ProtocolFeatures::BACKEND_REQ
        | ProtocolFeatures::INFLIGHT_SHMFD
        | ProtocolFeatures::RESET_DEVICE
        | ProtocolFeatures::CONFIGURE_MEM_SLOTS
}
