//! A virtqueue driver for tests: guest memory in a file, written and read as a guest would, past the code under test.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::super::memory::{MemTable, MemoryFault, RegionSpec};
use super::{Ring, RingConfig};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
pub(crate) const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
pub(crate) const INDIRECT_DESC: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Where the parts are; guest addresses, which lie `USER` below the front-end's.
const DESC: u64 = 0x1_0000;
const AVAIL: u64 = 0x9_0000;
const USED: u64 = 0xb_0000;
pub(crate) const USER: u64 = 0x7f00_0000_0000;
pub(crate) const MEMORY_LEN: u64 = 0x40_0000;
/// Free for buffers and indirect tables.
pub(crate) const DATA: u64 = 0x10_0000;

/// A driver on one memory file.
pub(crate) struct Driver {
    pub memory: Arc<MemTable>,
    file: File,
    size: u16,
    avail_idx: u16,
}

/// Address, length, flags, next.
pub(crate) type RawDesc = (u64, u32, u16, u16);

impl Driver {
    pub fn new(size: u16) -> Driver {
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(MEMORY_LEN).unwrap();
        let memory = Arc::new(MemTable::empty(MemoryFault::new().unwrap()));
        let driver = Driver { memory, file, size, avail_idx: 0 };
        let memory = Arc::new(driver.map_again());
        Driver { memory, ..driver }
    }

    /// Another table of the same memory.
    pub fn map_again(&self) -> MemTable {
        MemTable::new([(self.region(), self.clone_file())], MemoryFault::new().unwrap()).unwrap()
    }

    pub fn config(&self, features: u64) -> RingConfig {
        let (desc, avail, used) = (USER + DESC, USER + AVAIL, USER + USED);
        RingConfig { size: self.size, desc, avail, used, next_avail: 0, features }
    }

    pub fn ring(&self, features: u64) -> Ring {
        Ring::new(self.memory.clone(), self.config(features), None).unwrap()
    }

    /// The one region of its memory.
    pub fn region(&self) -> RegionSpec {
        RegionSpec { guest_addr: 0, len: MEMORY_LEN, user_addr: USER, file_offset: 0 }
    }

    pub fn clone_file(&self) -> File {
        self.file.try_clone().unwrap()
    }

    /// Guest addresses of descriptor table, available and used ring.
    pub fn guest_parts(&self) -> [u64; 3] {
        [DESC, AVAIL, USED]
    }

    pub fn put(&self, addr: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, addr).unwrap();
    }

    pub fn get<const N: usize>(&self, addr: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, addr).unwrap();
        bytes
    }

    pub fn put_u16(&self, addr: u64, value: u16) {
        self.put(addr, &value.to_le_bytes());
    }

    pub fn get_u16(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.get(addr))
    }

    /// A descriptor of the table at guest address `table`.
    pub fn put_desc_at(&self, table: u64, index: u16, (addr, len, flags, next): RawDesc) {
        let at = table + u64::from(index) * 16;
        self.put(at, &addr.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put_u16(at + 12, flags);
        self.put_u16(at + 14, next);
    }

    pub fn put_desc(&self, index: u16, desc: RawDesc) {
        self.put_desc_at(DESC, index, desc);
    }

    /// Makes `head` available.
    pub fn offer(&mut self, head: u16) {
        self.put_u16(AVAIL + 4 + 2 * u64::from(self.avail_idx % self.size), head);
        self.set_avail_idx(self.avail_idx.wrapping_add(1));
    }

    pub fn set_avail_idx(&mut self, index: u16) {
        self.avail_idx = index;
        self.put_u16(AVAIL + 2, index);
    }

    pub fn set_avail_flags(&self, flags: u16) {
        self.put_u16(AVAIL, flags);
    }

    pub fn set_used_event(&self, index: u16) {
        self.put_u16(AVAIL + 4 + 2 * u64::from(self.size), index);
    }

    pub fn used_flags(&self) -> u16 {
        self.get_u16(USED)
    }

    pub fn used_idx(&self) -> u16 {
        self.get_u16(USED + 2)
    }

    pub fn set_used_idx(&self, index: u16) {
        self.put_u16(USED + 2, index);
    }

    /// Head and length of the used entry at a free-running index.
    pub fn used_entry(&self, index: u16) -> (u32, u32) {
        let at = USED + 4 + 8 * u64::from(index % self.size);
        (u32::from_le_bytes(self.get(at)), u32::from_le_bytes(self.get(at + 4)))
    }

    pub fn avail_event(&self) -> u16 {
        self.get_u16(USED + 4 + 8 * u64::from(self.size))
    }

    pub fn used_area(&self) -> Vec<u8> {
        self.get::<{ 6 + 8 * 256 }>(USED)[..6 + 8 * usize::from(self.size)].to_vec()
    }

    /// The guest address of a segment.
    pub fn guest_addr(&self, segment: &crate::io::Segment) -> u64 {
        let base = self.memory.translate(0, 1).unwrap().as_ptr().addr();
        (segment.start.as_ptr().addr() - base) as u64
    }

    pub fn guest_segments(&self, segments: &[crate::io::Segment]) -> Vec<(u64, usize)> {
        segments.iter().map(|s| (self.guest_addr(s), s.len)).collect()
    }
}
