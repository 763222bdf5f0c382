//! What one run is made of: every choice follows from its seed, and each run leaves some things out.

use tidemark_backend::io::sim::Faults;

/// What the export serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// The file.
    File,
    /// A window into the file that does not begin at its start.
    Raw,
    /// A filter that delays requests.
    BlkDebug,
    /// The file with O_DIRECT on blocks of 4096 bytes.
    Direct,
    /// A window into that.
    RawOverDirect,
}

/// The choices of one run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its seed.
    pub seed: u64,
    /// What is served.
    pub stack: Stack,
    /// Sectors of the disk.
    pub sectors: usize,
    /// Virtqueues.
    pub queues: u16,
    /// Entries of each.
    pub queue_size: u16,
    /// Operations the kernel takes at once from a queue.
    pub capacity: usize,
    /// Most nanoseconds a queue polls.
    pub poll_ns: u64,
    /// VIRTIO_RING_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_RING_F_INDIRECT_DESC.
    pub indirect: bool,
    /// The write cache is on.
    pub write_cache: bool,
    /// The guest sleeps until it is called.
    pub waits_for_calls: bool,
    /// The front-end gives no kick descriptor.
    pub without_kicks: bool,
    /// Requests in flight are tracked, so the process may be killed.
    pub inflight: bool,
    /// Discards reach the storage.
    pub unmap: bool,
    /// Writes of zeroes become zero requests.
    pub detect_zeroes: bool,
    /// What goes wrong.
    pub faults: Faults,
    /// Requests to send.
    pub requests: u32,
    /// Sectors of the longest request.
    pub longest: usize,
    /// Chances in 4096 per turn: stop a ring, replace memory, disable a ring, kill, cut the power.
    pub chances: [u16; 5],
}

impl Scenario {
    /// The run of this seed.
    pub fn new(seed: u64) -> Self {
        let random = &mut fastrand::Rng::with_seed(seed ^ 0x7469_6465);
        let stacks = [Stack::File, Stack::Raw, Stack::BlkDebug, Stack::Direct, Stack::RawOverDirect];
        let inflight = random.bool();
        let mut chance = |most: u16| if random.bool() { random.u16(1..most) } else { 0 };
        let chances = [chance(40), chance(40), chance(40), chance(20) * u16::from(inflight), chance(20)];
        let queue_size = [2, 8, 16, 32][random.usize(0..4)];
        Self {
            seed,
            stack: stacks[random.usize(0..stacks.len())],
            sectors: [24, 128, 1024][random.usize(0..3)],
            queues: random.u16(1..=4),
            queue_size,
            capacity: [1, 3, 64][random.usize(0..3)],
            poll_ns: [0, 32_768][random.usize(0..2)],
            event_idx: random.bool(),
            // A request does not fit into two descriptors.
            indirect: queue_size == 2 || random.bool(),
            write_cache: random.u8(0..4) > 0,
            waits_for_calls: random.bool(),
            without_kicks: random.u8(0..8) == 0,
            inflight,
            unmap: random.bool(),
            detect_zeroes: random.u8(0..4) == 0,
            faults: if random.u8(0..3) == 0 { Faults::default() } else { Faults::random(random) },
            requests: 400,
            longest: [2, 9, 40][random.usize(0..3)],
            chances,
        }
    }

    /// Whether every write is promised to be stable when it ends.
    pub fn is_stable(&self) -> bool {
        !self.write_cache
    }

    /// Bytes of the file in front of the disk.
    pub fn window(&self) -> u64 {
        match self.stack {
            Stack::Raw => 1536,
            Stack::RawOverDirect => 512,
            _ => 0,
        }
    }

    /// Bytes of the file: whole blocks.
    pub fn image_len(&self) -> u64 {
        let len = self.window() + (self.sectors * crate::oracle::SECTOR) as u64;
        if self.is_direct() { len.next_multiple_of(4096) } else { len }
    }

    /// Sectors of the device, which may have some after those that the run uses.
    pub fn device_sectors(&self) -> u64 {
        (self.image_len() - self.window()) / crate::oracle::SECTOR as u64
    }

    /// Whether the storage takes whole blocks only.
    pub fn is_direct(&self) -> bool {
        matches!(self.stack, Stack::Direct | Stack::RawOverDirect)
    }
}
