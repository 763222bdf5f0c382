//! The configuration space of a virtio block device, decoded.
//!
//! It knows the layout (virtio 1.2, 5.2.4) and nothing of messages. Fields are in the units of the specification,
//! except [`BlkConfig::capacity_bytes`].

use crate::SECTOR_SIZE;

/// Bytes of configuration space read: up to and with `write_zeroes_may_unmap` and its padding.
pub const CONFIG_LEN: usize = 60;
/// Where the writeback byte (`wce`) lies.
pub(crate) const WCE_OFFSET: u32 = 32;

/// What the device says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkConfig {
    /// Size of the disk in 512-byte sectors.
    pub capacity: u64,
    /// Longest segment in bytes, with `SIZE_MAX`.
    pub size_max: u32,
    /// Most data segments in a request, with `SEG_MAX`.
    pub seg_max: u32,
    /// Logical block size in bytes, with `BLK_SIZE`.
    pub blk_size: u32,
    /// Physical block = 2^this logical blocks, with `TOPOLOGY`.
    pub physical_block_exp: u8,
    /// Smallest I/O size that performs well, in logical blocks.
    pub min_io_size: u16,
    /// Best I/O size in logical blocks.
    pub opt_io_size: u32,
    /// 1 if the device caches writes, with `CONFIG_WCE`.
    pub writeback: u8,
    /// Number of queues, with `MQ`.
    pub num_queues: u16,
    /// Longest discard segment in sectors, with `DISCARD`.
    pub max_discard_sectors: u32,
    /// Most segments in a discard.
    pub max_discard_seg: u32,
    /// Alignment of a discard in sectors.
    pub discard_sector_alignment: u32,
    /// Longest write-zeroes segment in sectors, with `WRITE_ZEROES`.
    pub max_write_zeroes_sectors: u32,
    /// Most segments in a write-zeroes.
    pub max_write_zeroes_seg: u32,
    /// 1 if write-zeroes with unmap may deallocate.
    pub write_zeroes_may_unmap: u8,
}

impl BlkConfig {
    /// Decodes configuration space; bytes the device did not send count as zero.
    pub fn from_bytes(bytes: &[u8]) -> BlkConfig {
        let [physical_block_exp] = field(bytes, 24);
        let [writeback] = field(bytes, 32);
        let [write_zeroes_may_unmap] = field(bytes, 56);
        BlkConfig {
            capacity: u64::from_le_bytes(field(bytes, 0)),
            size_max: u32::from_le_bytes(field(bytes, 8)),
            seg_max: u32::from_le_bytes(field(bytes, 12)),
            blk_size: u32::from_le_bytes(field(bytes, 20)),
            physical_block_exp,
            min_io_size: u16::from_le_bytes(field(bytes, 26)),
            opt_io_size: u32::from_le_bytes(field(bytes, 28)),
            writeback,
            num_queues: u16::from_le_bytes(field(bytes, 34)),
            max_discard_sectors: u32::from_le_bytes(field(bytes, 36)),
            max_discard_seg: u32::from_le_bytes(field(bytes, 40)),
            discard_sector_alignment: u32::from_le_bytes(field(bytes, 44)),
            max_write_zeroes_sectors: u32::from_le_bytes(field(bytes, 48)),
            max_write_zeroes_seg: u32::from_le_bytes(field(bytes, 52)),
            write_zeroes_may_unmap,
        }
    }

    /// Size of the disk in bytes; saturates if the device claims more than 2^64.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity.saturating_mul(SECTOR_SIZE)
    }
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..offset + N).and_then(|field| field.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        // The bytes of a device with every field distinct, written by hand from the table in virtio 1.2, 5.2.4.
        let mut bytes = vec![0u8; CONFIG_LEN];
        bytes[0..8].copy_from_slice(&[0, 8, 0, 0, 0, 0, 0, 0]);
        bytes[12..16].copy_from_slice(&[126, 0, 0, 0]);
        bytes[20..24].copy_from_slice(&[0, 16, 0, 0]);
        bytes[34..36].copy_from_slice(&[4, 0]);
        bytes[36..40].copy_from_slice(&[0xff, 0xff, 0x3f, 0]);
        bytes[56] = 1;
        let config = BlkConfig::from_bytes(&bytes);
        assert_eq!(config.capacity_bytes(), 1 << 20);
        assert_eq!((config.seg_max, config.blk_size, config.num_queues), (126, 4096, 4));
        assert_eq!((config.max_discard_sectors, config.write_zeroes_may_unmap), (0x3f_ffff, 1));
    }

    #[test]
    fn a_short_configuration_space_reads_as_zero_beyond_its_end() {
        let config = BlkConfig::from_bytes(&[1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(config, BlkConfig { capacity: 1, ..BlkConfig::default() });
    }
}
