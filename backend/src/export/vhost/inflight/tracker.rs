//! The algorithm over one queue's region (docs/interop/vhost-user.rst, `QueueRegionSplit` and what follows it).
//!
//! Invariant: at whatever store the process is killed, [`Tracker::recover`] in the next one names exactly the
//! requests that were fetched and whose completion the driver cannot see yet. That holds because
//! * an entry's counter is set before the entry is marked;
//! * a batch is linked before `used.idx` announces it, unmarked after that, and `used_idx` is set last: while
//!   `used_idx` lags behind, the difference says how many entries at the front of the list are done.

use super::InflightError;

/// Offsets in `QueueRegionSplit`, in bytes.
const VERSION: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
/// Length of its fixed part, which `desc[]` follows.
pub(super) const HEADER_LEN: usize = 16;
/// Offsets in `DescStateSplit`, in bytes.
const INFLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;
/// Its length.
pub(super) const DESC_LEN: usize = 16;

const CURRENT_VERSION: u16 = 1;

/// The bytes a region is made of. Numbers are in the machine's byte order; stores become visible in program order.
pub trait Cells {
    /// The byte at `offset`.
    fn get_u8(&self, offset: usize) -> u8;
    /// The 16-bit number at `offset`.
    fn get_u16(&self, offset: usize) -> u16;
    /// The 64-bit number at `offset`.
    fn get_u64(&self, offset: usize) -> u64;
    /// Stores a byte.
    fn set_u8(&mut self, offset: usize, value: u8);
    /// Stores a 16-bit number.
    fn set_u16(&mut self, offset: usize, value: u16);
    /// Stores a 64-bit number.
    fn set_u64(&mut self, offset: usize, value: u64);
}

/// What a region told when its queue started.
#[derive(Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing was ever tracked here for this ring: it starts where SET_VRING_BASE says.
    Fresh,
    /// These heads, in the order they were fetched in, have to be done again.
    Resume(Vec<u16>),
}

/// Tracks the requests of one queue.
#[derive(Debug)]
pub struct Tracker<C> {
    cells: C,
    desc_num: u16,
    counter: u64,
}

impl<C: Cells> Tracker<C> {
    /// A tracker over a region with `desc_num` entries. Call [`Tracker::recover`] first.
    pub(super) fn new(cells: C, desc_num: u16) -> Tracker<C> {
        Tracker { cells, desc_num, counter: 0 }
    }

    /// Notes that `head` was fetched; before anything is done about it.
    #[inline]
    pub fn mark(&mut self, head: u16) {
        self.cells.set_u64(entry(head) + COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.cells.set_u8(entry(head) + INFLIGHT, 1);
    }

    /// Announces that `heads` are done: `show` stores `used_idx` to `used.idx`, between the two steps around it.
    #[inline]
    pub fn publish(&mut self, heads: &[u16], used_idx: u16, show: impl FnOnce()) {
        for head in heads {
            let last = self.cells.get_u16(LAST_BATCH_HEAD);
            self.cells.set_u16(entry(*head) + NEXT, last);
            self.cells.set_u16(LAST_BATCH_HEAD, *head);
        }
        show();
        for head in heads {
            self.cells.set_u8(entry(*head) + INFLIGHT, 0);
        }
        self.cells.set_u16(USED_IDX, used_idx);
    }

    /// Makes the region good after whatever happened to the last process that used it, for a virtqueue of
    /// `queue_size` entries whose `used.idx` is `used_idx`.
    ///
    /// # Errors
    /// When the region is of an unknown version or for a smaller queue. Nothing is changed then.
    pub fn recover(&mut self, queue_size: u16, used_idx: u16) -> Result<Recovery, InflightError> {
        let (version, desc_num) = (self.cells.get_u16(VERSION), self.cells.get_u16(DESC_NUM));
        if version == 0 && queue_size <= self.desc_num {
            self.initialise(used_idx);
            return Ok(Recovery::Fresh);
        }
        if version != CURRENT_VERSION || desc_num != self.desc_num || queue_size > desc_num {
            return Err(InflightError::Unknown { version, desc_num });
        }
        let batch_len = used_idx.wrapping_sub(self.cells.get_u16(USED_IDX));
        if batch_len > desc_num {
            // No batch is that long: the driver has set the ring up anew since, and these entries mean nothing in it.
            self.initialise(used_idx);
            return Ok(Recovery::Fresh);
        }
        self.finish_batch(batch_len, used_idx);
        self.in_flight(queue_size).map(Recovery::Resume)
    }

    /// The version is stored last: a region without one is initialised again.
    fn initialise(&mut self, used_idx: u16) {
        self.cells.set_u16(VERSION, 0);
        for head in 0..self.desc_num {
            self.cells.set_u8(entry(head) + INFLIGHT, 0);
        }
        self.cells.set_u16(DESC_NUM, self.desc_num);
        self.cells.set_u16(LAST_BATCH_HEAD, 0);
        self.cells.set_u16(USED_IDX, used_idx);
        self.cells.set_u16(VERSION, CURRENT_VERSION);
    }

    /// Does what [`Tracker::publish`] did not come to.
    fn finish_batch(&mut self, batch_len: u16, used_idx: u16) {
        let mut head = self.cells.get_u16(LAST_BATCH_HEAD);
        for _ in 0..batch_len {
            if head >= self.desc_num {
                break;
            }
            self.cells.set_u8(entry(head) + INFLIGHT, 0);
            head = self.cells.get_u16(entry(head) + NEXT);
        }
        self.cells.set_u16(USED_IDX, used_idx);
    }

    /// The entries in flight by their counter; the counter goes on after the highest.
    fn in_flight(&mut self, queue_size: u16) -> Result<Vec<u16>, InflightError> {
        let is_marked = |head: &u16| self.cells.get_u8(entry(*head) + INFLIGHT) != 0;
        let mut marked: Vec<(u64, u16)> = (0..self.desc_num)
            .filter(is_marked)
            .map(|head| (self.cells.get_u64(entry(head) + COUNTER), head))
            .collect();
        if let Some((_, head)) = marked.iter().find(|(_, head)| *head >= queue_size) {
            return Err(InflightError::BeyondQueue(*head));
        }
        marked.sort_unstable();
        self.counter = marked.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(marked.into_iter().map(|(_, head)| head).collect())
    }
}

/// Offset of the entry of `head`.
#[inline]
fn entry(head: u16) -> usize {
    HEADER_LEN + usize::from(head) * DESC_LEN
}
