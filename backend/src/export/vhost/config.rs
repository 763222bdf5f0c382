//! What the device says of itself: feature bits and the configuration space (virtio 1.2, section 5.2).
//!
//! Plain functions from facts to bits and bytes. Does not know messages; the session asks, the front-end caches.

use std::sync::atomic::Ordering;

use vhost::vhost_user::VhostUserProtocolFeatures;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::request::{DISCARD_SECTORS_MAX, SECTOR};
use super::shared::ExportShared;

/// `VHOST_USER_F_PROTOCOL_FEATURES` (vhost-user.rst, "Communication").
pub const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Feature bits by name, for the log.
const NAMES: [(u32, &str); 14] = [
    (VIRTIO_BLK_F_SIZE_MAX, "SIZE_MAX"),
    (VIRTIO_BLK_F_SEG_MAX, "SEG_MAX"),
    (VIRTIO_BLK_F_RO, "RO"),
    (VIRTIO_BLK_F_BLK_SIZE, "BLK_SIZE"),
    (VIRTIO_BLK_F_FLUSH, "FLUSH"),
    (VIRTIO_BLK_F_TOPOLOGY, "TOPOLOGY"),
    (VIRTIO_BLK_F_CONFIG_WCE, "CONFIG_WCE"),
    (VIRTIO_BLK_F_MQ, "MQ"),
    (VIRTIO_BLK_F_DISCARD, "DISCARD"),
    (VIRTIO_BLK_F_WRITE_ZEROES, "WRITE_ZEROES"),
    (VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC"),
    (VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX"),
    (30, "PROTOCOL_FEATURES"),
    (VIRTIO_F_VERSION_1, "VERSION_1"),
];

/// The most bytes of one segment of a request (`size_max`): what one read or write of the kernel moves.
const SEGMENT_BYTES_MAX: u32 = 0x7fff_f000;
/// The most data segments of a request (`seg_max`): a ring of 128 entries less header and status, QEMU's default.
const SEGMENTS_MAX: u32 = 126;

/// Length of the part of `struct virtio_blk_config` that has a meaning here; what follows is zero.
const CONFIG_LEN: usize = 60;
/// Offset of `wce` ("writeback" in the specification) in it, the one field a driver may write.
const WCE: u32 = 32;

/// What the configuration space is made from.
#[derive(Debug, Clone, Copy)]
pub struct DeviceFacts {
    /// Length of the disk in bytes.
    pub length: u64,
    /// Bytes of a logical block.
    pub logical_block_size: u32,
    /// The smallest piece the storage writes in one go, in bytes.
    pub request_alignment: u32,
    /// Number of virtqueues.
    pub num_queues: u16,
    /// Whether a write cache is in effect.
    pub has_write_cache: bool,
}

impl DeviceFacts {
    /// The facts of an export right now.
    #[must_use]
    pub fn of(export: &ExportShared) -> DeviceFacts {
        let node = export.node();
        DeviceFacts {
            length: node.length(),
            logical_block_size: export.logical_block_size,
            request_alignment: node.request_alignment(),
            num_queues: export.num_queues,
            has_write_cache: export.wce.load(Ordering::Relaxed),
        }
    }

    /// Bytes of a physical block: not smaller than a logical one, a power of two.
    fn physical_block_size(&self) -> u32 {
        let wanted = self.request_alignment.max(self.logical_block_size);
        wanted.checked_next_power_of_two().unwrap_or(self.logical_block_size)
    }

    /// `len` bytes of the configuration space from `offset`; zero beyond the fields there are.
    #[must_use]
    pub fn config_space(&self, offset: usize, len: usize) -> Vec<u8> {
        let config = self.bytes();
        (offset..offset.saturating_add(len)).map(|at| config.get(at).copied().unwrap_or(0)).collect()
    }

    /// `struct virtio_blk_config` of `linux/virtio_blk.h`.
    fn bytes(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (target, byte) in config.iter_mut().skip(offset).zip(bytes) {
                *target = *byte;
            }
        };
        let logical = self.logical_block_size.max(1);
        let ratio = self.physical_block_size() / logical;
        // At most 31.
        let exponent = u8::try_from(ratio.max(1).ilog2()).unwrap_or(0);
        let discard_alignment = u64::from(self.physical_block_size()) / SECTOR;
        put(0, &(self.length / SECTOR).to_le_bytes());
        put(8, &SEGMENT_BYTES_MAX.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &logical.to_le_bytes());
        put(24, &[exponent]);
        put(26, &u16::try_from(ratio).unwrap_or(1).max(1).to_le_bytes());
        put(WCE as usize, &[u8::from(self.has_write_cache)]);
        put(34, &self.num_queues.to_le_bytes());
        put(36, &DISCARD_SECTORS_MAX.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &u32::try_from(discard_alignment).unwrap_or(1).to_le_bytes());
        put(48, &DISCARD_SECTORS_MAX.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}

/// The virtio features a device offers.
#[must_use]
pub fn features(writable: bool) -> u64 {
    let written = [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES];
    let is_offered = |bit: u32| match bit {
        VIRTIO_BLK_F_RO => !writable,
        bit if written.contains(&bit) => writable,
        _ => true,
    };
    NAMES.iter().filter(|(bit, _)| is_offered(*bit)).fold(0, |all, (bit, _)| all | 1 << bit)
}

/// The names of the bits in `features`, for people.
#[must_use]
pub fn feature_names(features: u64) -> String {
    let names: Vec<&str> = NAMES.iter().filter(|(bit, _)| features & 1 << bit != 0).map(|(_, name)| *name).collect();
    names.join(" ")
}

/// The vhost-user protocol features we offer.
#[must_use]
pub fn protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
}

/// Whether a driver that accepted `features` starts with a write cache, when it has not said anything yet
/// (virtio 1.2, section 5.2.5): it must know how to flush it.
#[must_use]
pub fn starts_with_write_cache(features: u64) -> bool {
    features & 1 << VIRTIO_BLK_F_FLUSH != 0
}

/// What a write to the configuration space means: the new value of `wce`; `None` when it is anything else.
#[must_use]
pub fn written_wce(offset: u32, bytes: &[u8]) -> Option<bool> {
    match (offset, bytes) {
        (WCE, [0]) => Some(false),
        (WCE, [1]) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: DeviceFacts = DeviceFacts {
        length: 10 << 20,
        logical_block_size: 512,
        request_alignment: 4096,
        num_queues: 64,
        has_write_cache: true,
    };

    fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
        bytes[offset..offset + len].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
    }

    /// Offsets from virtio 1.2, section 5.2.4.
    #[test]
    fn every_field_is_where_the_specification_has_it() {
        let config = FACTS.config_space(0, 60);
        let fields = [
            ("capacity", 0, 8, 20480),
            ("size_max", 8, 4, 0x7fff_f000),
            ("seg_max", 12, 4, 126),
            ("geometry", 16, 4, 0),
            ("blk_size", 20, 4, 512),
            ("physical_block_exp", 24, 1, 3),
            ("alignment_offset", 25, 1, 0),
            ("min_io_size", 26, 2, 8),
            ("opt_io_size", 28, 4, 0),
            ("writeback", 32, 1, 1),
            ("num_queues", 34, 2, 64),
            ("max_discard_sectors", 36, 4, 32768),
            ("max_discard_seg", 40, 4, 1),
            ("discard_sector_alignment", 44, 4, 8),
            ("max_write_zeroes_sectors", 48, 4, 32768),
            ("max_write_zeroes_seg", 52, 4, 1),
            ("write_zeroes_may_unmap", 56, 1, 1),
        ];
        for (name, offset, len, value) in fields {
            assert_eq!(number(&config, offset, len), value, "{name}");
        }
    }

    #[test]
    fn blocks_larger_than_the_storage_needs_are_their_own_physical_blocks() {
        let config = DeviceFacts { logical_block_size: 4096, request_alignment: 1, ..FACTS }.config_space(0, 60);
        assert_eq!([number(&config, 20, 4), number(&config, 24, 1), number(&config, 26, 2)], [4096, 0, 1]);
        assert_eq!(number(&config, 44, 4), 8);
        let odd = DeviceFacts { request_alignment: 3000, ..FACTS }.config_space(24, 1);
        assert_eq!(odd, [3]);
    }

    #[test]
    fn any_part_can_be_read_and_what_lies_beyond_is_zero() {
        assert_eq!(FACTS.config_space(33, 3), [0, 64, 0]);
        assert_eq!(FACTS.config_space(56, 200)[..2], [1, 0]);
        assert_eq!(FACTS.config_space(56, 200).len(), 200);
        assert_eq!(FACTS.config_space(4000, 2), [0, 0]);
    }

    #[test]
    fn only_the_write_cache_can_be_written() {
        assert_eq!([written_wce(32, &[0]), written_wce(32, &[1])], [Some(false), Some(true)]);
        for (offset, bytes) in [(32, &[2][..]), (32, &[]), (32, &[1, 0]), (33, &[1]), (0, &[0; 60])] {
            assert_eq!(written_wce(offset, bytes), None, "{offset} {bytes:?}");
        }
    }

    #[test]
    fn read_only_device_says_so_and_offers_nothing_that_writes() {
        let (ro, discard, zeroes) = (1 << 5, 1 << 13, 1 << 14);
        assert_eq!(features(true) & (ro | discard | zeroes), discard | zeroes);
        assert_eq!(features(false) & (ro | discard | zeroes), ro);
        assert_eq!(feature_names(ro | discard), "RO DISCARD");
        assert!(starts_with_write_cache(features(true)));
        assert!(!starts_with_write_cache(features(true) & !(1 << 9)));
    }
}
