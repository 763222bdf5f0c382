//! A split virtqueue (virtio 1.2, section 2.7) as the device sees it.
//!
//! All checks of where the ring lies are made once, when it is set up; after that it is three raw pointers and a few
//! indices. It does not know what a request means, and it never blocks or signals: it says when to.
//!
//! Invariants: a request fetched is noted in the in-flight region before anybody hears of it, and `used.idx` is
//! stored between the two steps that the region needs around it, so no caller can get that order wrong. No more
//! requests are outstanding than the ring has entries. The ring's memory is pinned by the ring itself.

mod chain;
#[cfg(test)]
pub(crate) mod driver;
mod layout;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use chain::{Chain, ChainError, MAX_CHAIN_LEN};
use layout::Layout;

use super::inflight::{InflightError, InflightRegion, Recovery};
use super::memory::{MemTable, MemoryPin};

/// The largest virtqueue (virtio 1.2, section 2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Where a ring is and how it is used, as the front-end set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    /// Number of entries, a power of two (SET_VRING_NUM).
    pub size: u16,
    /// Front-end address of the descriptor table (SET_VRING_ADDR).
    pub desc: u64,
    /// Front-end address of the available ring.
    pub avail: u64,
    /// Front-end address of the used ring.
    pub used: u64,
    /// First index to fetch from the available ring (SET_VRING_BASE); not looked at when an in-flight region knows.
    pub next_avail: u16,
    /// The virtio features the driver accepted; EVENT_IDX and INDIRECT_DESC matter here.
    pub features: u64,
}

/// Why a ring cannot be started, or has to be stopped.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The number of entries is not a power of two from 1 to [`MAX_QUEUE_SIZE`].
    #[error("virtqueue size {0} is not a power of two from 1 to 32768")]
    BadSize(u16),
    /// A part of the ring is not in one memory region.
    #[error("{part} at front-end address {addr:#x} is not in guest memory")]
    NotMapped {
        /// Which part.
        part: &'static str,
        /// Where it should be.
        addr: u64,
    },
    /// A part of the ring is not aligned as virtio 1.2, section 2.7 demands.
    #[error("{part} at front-end address {addr:#x} is not aligned")]
    Misaligned {
        /// Which part.
        part: &'static str,
        /// Where it is.
        addr: u64,
    },
    /// The in-flight region does not fit the ring.
    #[error(transparent)]
    Inflight(#[from] InflightError),
    /// More requests were made available than the ring has entries.
    #[error("available index jumped from {next} to {avail}")]
    AvailIndexJumped {
        /// The next index to fetch.
        next: u16,
        /// The driver's index.
        avail: u16,
    },
    /// Requests were made available although as many as the ring has entries are outstanding.
    #[error("more requests outstanding than the virtqueue has entries")]
    TooManyOutstanding,
    /// The available ring names a descriptor that does not exist.
    #[error("head {0} is beyond the descriptor table")]
    HeadOutOfRange(u16),
    /// A request is malformed and has no place for a status.
    #[error("request at head {head} has no status to report to: {error}")]
    BadChain {
        /// The head of its chain.
        head: u16,
        /// What is wrong with it.
        error: ChainError,
    },
}

/// What [`Ring::pop`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Popped {
    /// Nothing: the driver has made no more requests available.
    Nothing,
    /// A well-formed chain.
    Request,
    /// A malformed chain whose last writable byte can be written: the chain has no segments, only the head and
    /// [`Chain::status`]. Report the error there and go on.
    Malformed(ChainError),
}

/// A split virtqueue. Used by one thread.
#[derive(Debug)]
pub struct Ring {
    config: RingConfig,
    memory: MemoryPin,
    layout: Layout,
    event_idx: bool,
    indirect: bool,
    /// The next index to fetch, and the driver's index as last seen.
    next_avail: u16,
    seen_avail: u16,
    /// `used.idx` as last stored.
    used_idx: u16,
    /// Fetched, and not yet published as used.
    outstanding: u16,
    /// Heads pushed and not yet published.
    batch: Vec<u16>,
    /// Heads to fetch again before any from the available ring; the next is the last.
    resubmit: Vec<u16>,
    inflight: Option<InflightRegion>,
    /// Where the last address was found.
    last_region: usize,
    /// Publish with a notification once, whatever the driver's event index says: it may be from before our time.
    notify_once: bool,
}

impl Ring {
    /// Takes a ring over. With an in-flight region, what the last process left undone comes first from
    /// [`Ring::pop`], in the order it was fetched in.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn new(memory: Arc<MemTable>, config: RingConfig, inflight: Option<InflightRegion>) -> Result<Ring, RingError> {
        if !config.size.is_power_of_two() || config.size > MAX_QUEUE_SIZE {
            return Err(RingError::BadSize(config.size));
        }
        let layout = Layout::new(&memory, &config)?;
        let used_idx = layout.used_idx();
        let event_idx = config.features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let mut ring = Ring {
            config,
            memory: MemoryPin::new(memory),
            layout,
            event_idx,
            indirect: config.features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
            next_avail: config.next_avail,
            seen_avail: config.next_avail,
            used_idx,
            outstanding: 0,
            batch: Vec::with_capacity(usize::from(config.size)),
            resubmit: Vec::new(),
            inflight,
            last_region: 0,
            notify_once: true,
        };
        ring.recover()?;
        if event_idx {
            ring.layout.set_used_flags(0);
        }
        Ok(ring)
    }

    /// `next_avail` follows from `used.idx` and what is in flight; the front-end cannot know it after a crash.
    fn recover(&mut self) -> Result<(), RingError> {
        let Some(inflight) = &mut self.inflight else { return Ok(()) };
        if let Recovery::Resume(mut heads) = inflight.recover(self.config.size, self.used_idx)? {
            // At most `size` heads, which fits.
            let count = u16::try_from(heads.len()).unwrap_or(self.config.size);
            self.next_avail = self.used_idx.wrapping_add(count);
            self.seen_avail = self.next_avail;
            heads.reverse();
            self.resubmit = heads;
        }
        Ok(())
    }

    /// Uses `memory` from now on. Operations in flight keep the table they were made with.
    ///
    /// # Errors
    /// When the ring is not in the new memory; it must not be used any more then.
    pub fn set_memory(&mut self, memory: Arc<MemTable>) -> Result<(), RingError> {
        self.layout = Layout::new(&memory, &self.config)?;
        self.memory = MemoryPin::new(memory);
        Ok(())
    }

    /// The memory that chains are translated with; hold a clone of it while an operation uses their segments.
    #[must_use]
    #[inline]
    pub fn memory(&self) -> &MemoryPin {
        &self.memory
    }

    /// How many requests wait to be fetched.
    ///
    /// # Errors
    /// [`RingError::AvailIndexJumped`].
    #[inline]
    pub fn available(&mut self) -> Result<u16, RingError> {
        let avail = self.layout.avail_idx();
        let count = avail.wrapping_sub(self.next_avail);
        if count > self.config.size {
            return Err(RingError::AvailIndexJumped { next: self.next_avail, avail });
        }
        self.seen_avail = avail;
        Ok(count.saturating_add(u16::try_from(self.resubmit.len()).unwrap_or(u16::MAX)))
    }

    /// Fetches the next request into `chain`. Does not allocate once `chain` has grown to what the driver uses.
    ///
    /// # Errors
    /// The queue has to stop: see [`RingError`].
    #[inline]
    pub fn pop(&mut self, chain: &mut Chain) -> Result<Popped, RingError> {
        let Some(head) = self.next_head()? else { return Ok(Popped::Nothing) };
        self.outstanding += 1;
        let source = chain::Source { table: self.layout.descriptors(), memory: &self.memory, indirect: self.indirect };
        match source.walk(head, chain, &mut self.last_region) {
            Ok(()) => Ok(Popped::Request),
            Err(error) if chain.status().is_some() => Ok(Popped::Malformed(error)),
            Err(error) => Err(RingError::BadChain { head, error }),
        }
    }

    /// The next head, noted as in flight.
    #[inline]
    fn next_head(&mut self) -> Result<Option<u16>, RingError> {
        if let Some(head) = self.resubmit.pop() {
            return Ok(Some(head));
        }
        if self.next_avail == self.seen_avail && self.available()? == 0 {
            return Ok(None);
        }
        if self.outstanding >= self.config.size {
            return Err(RingError::TooManyOutstanding);
        }
        let head = self.layout.avail_entry(self.next_avail);
        if head >= self.config.size {
            return Err(RingError::HeadOutOfRange(head));
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        if let Some(inflight) = &mut self.inflight {
            inflight.mark(head);
        }
        Ok(Some(head))
    }

    /// Puts a request that was fetched into the used ring, with the number of bytes that were written to it. The
    /// driver sees it after the next [`Ring::publish`].
    #[inline]
    pub fn push_used(&mut self, head: u16, written: u32) {
        let pending = u16::try_from(self.batch.len()).unwrap_or(u16::MAX);
        self.layout.set_used_entry(self.used_idx.wrapping_add(pending), head, written);
        self.batch.push(head);
    }

    /// Shows the driver what was pushed. True when it wants to be notified.
    #[inline]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let Ok(count @ 1..) = u16::try_from(self.batch.len()) else { return false };
        let old = self.used_idx;
        let new = old.wrapping_add(count);
        match &mut self.inflight {
            Some(inflight) => inflight.publish(&self.batch, new, || self.layout.set_used_idx(new)),
            None => self.layout.set_used_idx(new),
        }
        self.batch.clear();
        self.used_idx = new;
        self.outstanding = self.outstanding.saturating_sub(count);
        self.wants_notification(old, new)
    }

    #[inline]
    fn wants_notification(&mut self, old: u16, new: u16) -> bool {
        // The driver stores its wish and then looks at used.idx; we stored used.idx and now look at its wish.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let forced = std::mem::take(&mut self.notify_once);
        if !self.event_idx {
            return !self.layout.wants_no_interrupt();
        }
        // Whether an entry from `old` to before `new` has the index `used_event` (section 2.7.7).
        let behind = new.wrapping_sub(self.layout.used_event()).wrapping_sub(1);
        forced || behind < new.wrapping_sub(old)
    }

    /// Asks the driver for a kick with the next request it makes available. True when one is available already: then
    /// there may be no kick for it, fetch it instead of waiting.
    ///
    /// # Errors
    /// [`RingError::AvailIndexJumped`].
    pub fn arm_kicks(&mut self) -> Result<bool, RingError> {
        if self.event_idx {
            self.layout.set_avail_event(self.next_avail);
        } else {
            self.layout.set_used_flags(0);
        }
        // The driver stores avail.idx and then looks at our wish; we stored the wish and now look at avail.idx.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        Ok(self.available()? > 0)
    }

    /// Tells the driver that we look at the ring without being kicked. With EVENT_IDX: by wishing for a kick at an
    /// index that is past (section 2.7.10).
    pub fn suppress_kicks(&mut self) {
        if self.event_idx {
            self.layout.set_avail_event(self.next_avail.wrapping_sub(1));
        } else {
            self.layout.set_used_flags(layout::NO_NOTIFY);
        }
    }

    /// The next index to fetch from the available ring; what GET_VRING_BASE answers once nothing is outstanding.
    #[must_use]
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// `used.idx` as last published.
    #[must_use]
    pub fn used_idx(&self) -> u16 {
        self.used_idx
    }

    /// Whether requests that the last process left undone have yet to be fetched again.
    #[must_use]
    #[inline]
    pub fn has_recovered(&self) -> bool {
        !self.resubmit.is_empty()
    }

    /// How many requests were fetched and are not published as used.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }
}
