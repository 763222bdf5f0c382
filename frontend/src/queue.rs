//! One virtqueue as a well-behaved driver uses it: requests in, completions out.
//!
//! A queue has one owner and may move to a thread. It never looks at a message: [`crate::Device`] starts and stops
//! the back-end's half, and after a reconnect the queue goes on as if nothing had happened. Invariant: every token
//! handed out comes back from [`Queue::pop`] exactly once; a used element for anything else is an error, because
//! heads are checked against what is in flight, never trusted.

mod chain;

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::doorbell::Doorbell;
use crate::error::{Error, Result};
use crate::memory::{Arena, GuestBuf, Region};
use crate::options::Notify;
use crate::request::{Completion, Request, Status, Token};
use crate::ring::{DESC_LEN, Descriptor, Ring};

/// Bytes of guest memory per slot: header at 0, discard segment at 16, status at 32; a cache line, so that slots
/// do not share one.
const CONTROL_LEN: u32 = 64;
const SEGMENT_OFFSET: u64 = 16;
const STATUS_OFFSET: u64 = 32;
/// How often a polling queue renews its wish not to be notified: well inside the 16-bit index's half.
const RENEW_EVERY: u16 = 4096;

/// A queue of a device.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    ring: Ring,
    doorbell: Doorbell,
    notify: Notify,
    control: GuestBuf,
    /// Indirect tables of the slots and the entries each has; `None` without `INDIRECT_DESC`.
    tables: Option<(GuestBuf, u16)>,
    slots: Vec<Slot>,
    /// Private copy of the chains, so that freeing one does not read guest memory.
    next: Vec<u16>,
    free: Vec<u16>,
    scratch: Vec<Descriptor>,
    in_flight: u16,
    next_avail: u16,
    published: u16,
    last_used: u16,
    seen_used: u16,
    serial: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Serial number of the request in flight, 0 if there is none.
    serial: u64,
    descriptors: u16,
}

impl Queue {
    /// A queue on an empty ring. `max_segments` is `Some` with indirect descriptors.
    ///
    /// # Errors
    /// [`Error::ArenaFull`] if headers and tables do not fit.
    pub(crate) fn new(
        index: u16,
        ring: Ring,
        notify: Notify,
        max_segments: Option<u16>,
        arena: &mut Arena,
    ) -> Result<Queue> {
        let size = ring.layout().size;
        let control = arena.alloc(CONTROL_LEN * u32::from(size), 4096)?;
        let tables = match max_segments {
            Some(segments) => {
                let entries = segments.saturating_add(2);
                let len = u32::try_from(DESC_LEN).unwrap_or(0) * u32::from(entries) * u32::from(size);
                Some((arena.alloc(len, 4096)?, entries))
            }
            None => None,
        };
        Ok(Queue {
            index,
            doorbell: Doorbell::new()?,
            notify,
            control,
            tables,
            slots: vec![Slot::default(); usize::from(size)],
            next: vec![0; usize::from(size)],
            free: (0..size).rev().collect(),
            scratch: Vec::with_capacity(8),
            in_flight: 0,
            next_avail: ring.avail_idx()?,
            published: ring.avail_idx()?,
            last_used: ring.used_idx()?,
            seen_used: ring.used_idx()?,
            serial: 0,
            ring,
        })
    }

    /// Number of the queue.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors, and upper bound of a token's slot.
    pub fn size(&self) -> u16 {
        self.ring.layout().size
    }

    /// The bare ring. Writing to it behind the queue's back is what tests of bad input do.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The queue's eventfds.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// Requests not completed yet.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Sends a request: [`Queue::enqueue`] and [`Queue::publish`].
    ///
    /// # Errors
    /// As those.
    pub fn submit(&mut self, request: &Request<'_>) -> Result<Token> {
        let token = self.enqueue(request)?;
        self.publish()?;
        Ok(token)
    }

    /// Puts a request into the ring; the device sees it after [`Queue::publish`].
    ///
    /// # Errors
    /// [`Error::QueueFull`] if it has to wait for completions; [`Error::Invalid`] if it never fits.
    #[inline]
    pub fn enqueue(&mut self, request: &Request<'_>) -> Result<Token> {
        let Some(&head) = self.free.last() else { return Err(Error::QueueFull { queue: self.index }) };
        let mut chain = std::mem::take(&mut self.scratch);
        chain.clear();
        let placed = self.describe(head, request, &mut chain).and_then(|()| self.place(head, &chain));
        self.scratch = chain;
        let descriptors = placed?;
        self.serial += 1;
        if let Some(slot) = self.slots.get_mut(usize::from(head)) {
            *slot = Slot { serial: self.serial, descriptors };
        }
        self.ring.write_avail(self.next_avail, head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.in_flight += 1;
        Ok(Token { slot: head, serial: self.serial })
    }

    /// Shows the device everything enqueued and kicks it if it wants that.
    ///
    /// # Errors
    /// [`Error::System`] if the kick fails.
    #[inline]
    pub fn publish(&mut self) -> Result<()> {
        let (old, new) = (self.published, self.next_avail);
        if old == new {
            return Ok(());
        }
        self.ring.set_avail_idx(new)?;
        self.published = new;
        if self.ring.needs_kick(old, new)? { self.doorbell.kick() } else { Ok(()) }
    }

    /// Takes the next completion, if there is one.
    ///
    /// # Errors
    /// [`Error::UsedRing`] if the device completed what was not in flight.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Completion>> {
        if !self.has_completions()? {
            return Ok(None);
        }
        let element = self.ring.used_element(self.last_used)?;
        let head = u16::try_from(element.head).map_err(|_| self.broken(format!("head {}", element.head)))?;
        let slot = self.slots.get_mut(usize::from(head)).map(std::mem::take).unwrap_or_default();
        if slot.serial == 0 {
            return Err(self.broken(format!("head {head} completed, but is not in flight")));
        }
        self.last_used = self.last_used.wrapping_add(1);
        if self.notify != Notify::Wait && self.last_used.is_multiple_of(RENEW_EVERY) {
            self.ring.disable_notifications(self.last_used)?;
        }
        self.release(head, slot.descriptors);
        let status = self.region().atomic::<AtomicU8>(self.control(head) + STATUS_OFFSET)?.load(Ordering::Relaxed);
        Ok(Some(Completion {
            token: Token { slot: head, serial: slot.serial },
            status: Status::from_byte(status),
            written_len: element.len,
        }))
    }

    /// Hands every completion there is to `handle`; says how many.
    ///
    /// # Errors
    /// As [`Queue::pop`].
    pub fn poll(&mut self, mut handle: impl FnMut(Completion)) -> Result<usize> {
        let mut count = 0;
        while let Some(completion) = self.pop()? {
            handle(completion);
            count += 1;
        }
        Ok(count)
    }

    /// Waits until there is something to [`Queue::pop`]; false at the timeout. A polling queue spins.
    ///
    /// # Errors
    /// [`Error::System`] if waiting fails; [`Error::UsedRing`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.has_completions()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            match self.notify {
                Notify::Poll | Notify::PollWithoutCall => std::thread::yield_now(),
                Notify::Wait => self.sleep(left)?,
            }
        }
    }

    /// Submits one request on an idle queue and waits for it.
    ///
    /// # Errors
    /// As [`Queue::submit`]; [`Error::System`] with `TimedOut` if it is not back in time.
    pub fn run(&mut self, request: &Request<'_>, timeout: Duration) -> Result<Completion> {
        self.submit(request)?;
        self.wait(timeout)?;
        let late = || Error::system("waiting for a completion")(std::io::Error::from(std::io::ErrorKind::TimedOut));
        self.pop()?.ok_or_else(late)
    }

    pub(crate) fn start_quietly(&self) -> Result<()> {
        self.ring.disable_notifications(self.last_used)
    }

    #[inline]
    fn has_completions(&mut self) -> Result<bool> {
        if self.seen_used == self.last_used {
            self.seen_used = self.ring.used_idx()?;
            let pending = self.seen_used.wrapping_sub(self.last_used);
            if pending > self.in_flight {
                self.seen_used = self.last_used;
                let in_flight = self.in_flight;
                return Err(self.broken(format!("{pending} completions for {in_flight} requests in flight")));
            }
        }
        Ok(self.seen_used != self.last_used)
    }

    fn sleep(&mut self, timeout: Duration) -> Result<()> {
        self.ring.enable_notifications(self.last_used)?;
        if !self.has_completions()? {
            self.doorbell.wait_call(timeout)?;
        }
        self.ring.disable_notifications(self.last_used)
    }

    #[inline]
    fn control(&self, head: u16) -> u64 {
        self.control.addr + u64::from(head) * u64::from(CONTROL_LEN)
    }

    #[inline]
    fn region(&self) -> &Region {
        self.ring.region()
    }

    fn broken(&self, reason: String) -> Error {
        Error::UsedRing { queue: self.index, reason }
    }
}
