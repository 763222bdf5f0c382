//! One virtqueue from the driver's side: parcels into the ring, ends out of it.
//!
//! It lays chains out in many ways (pieces at odd places, a status in the data's buffer, indirect tables) and believes
//! nothing: what is used must be in flight, once.

use crate::oracle::Moment;
use crate::request::Parcel;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tidemark_frontend::{
    Arena, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, GuestBuf, GuestMemory, Ring, RingLayout,
};

/// Bytes per request for header, status and indirect table.
const CONTROL: u32 = 512;
/// Bytes per request for data.
pub const DATA: u32 = 0x7000;
/// What is in a buffer before the device writes to it.
const UNWRITTEN: u8 = 0xa5;

/// A request in flight.
pub struct Pending {
    /// What was sent.
    pub parcel: Parcel,
    /// The number the oracle gave it.
    pub start: Moment,
    slot: usize,
    descriptors: Vec<u16>,
    status: u64,
    data: u64,
}

/// A request that has ended.
pub struct Ended {
    /// What was sent.
    pub parcel: Parcel,
    /// The number the oracle gave it.
    pub start: Moment,
    /// The status byte.
    pub status: u8,
    /// The length in the used ring.
    pub used_len: u32,
    /// What the device wrote.
    pub data: Vec<u8>,
}

/// The driver's end of a queue.
pub struct GuestQueue {
    memory: GuestMemory,
    ring: Ring,
    indirect: bool,
    control: GuestBuf,
    data: GuestBuf,
    slots: Vec<usize>,
    descriptors: Vec<u16>,
    pending: BTreeMap<u16, Pending>,
    avail: u16,
    used: u16,
    waits_for_calls: bool,
    /// Rung for the device.
    pub kick: Arc<OwnedFd>,
    /// Rung by the device.
    pub call: Arc<OwnedFd>,
    /// Rung by the device when it gives the queue up.
    pub error: Arc<OwnedFd>,
}

fn bell() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

impl GuestQueue {
    /// A queue of `size` entries in `memory`; ring and headers from `low`, data from `high`.
    pub fn new(
        memory: &GuestMemory,
        [low, high]: [&mut Arena; 2],
        size: u16,
        [event_idx, indirect, waits_for_calls]: [bool; 3],
    ) -> Self {
        let layout = RingLayout::alloc(size, low).unwrap();
        let ring = Ring::new(memory, layout, event_idx).unwrap();
        ring.enable_notifications(0).unwrap();
        Self {
            memory: memory.clone(),
            ring,
            indirect,
            control: low.alloc(CONTROL * u32::from(size), 4096).unwrap(),
            data: high.alloc(DATA * u32::from(size), 4096).unwrap(),
            slots: (0..usize::from(size)).collect(),
            descriptors: (0..size).collect(),
            pending: BTreeMap::new(),
            avail: 0,
            used: 0,
            waits_for_calls,
            kick: bell(),
            call: bell(),
            error: bell(),
        }
    }

    /// Where the ring lies.
    pub fn layout(&self) -> RingLayout {
        self.ring.layout()
    }

    /// `used.idx` as the device wrote it.
    pub fn used_idx(&self) -> u16 {
        self.ring.used_idx().unwrap()
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Whether a request of any shape fits.
    pub fn has_room(&self) -> bool {
        !self.slots.is_empty() && self.descriptors.len() >= if self.indirect { 1 } else { 6 }
    }

    /// Makes a request available.
    pub fn send(&mut self, parcel: Parcel, start: Moment, random: &mut fastrand::Rng) {
        let at = random.usize(0..self.slots.len());
        let slot = self.slots.swap_remove(at);
        let control = self.control.addr + slot as u64 * u64::from(CONTROL);
        let skew = if random.bool() { 0 } else { random.u64(0..4096) };
        let data = self.data.addr + slot as u64 * u64::from(DATA) + skew;
        let mut status = control + 16;
        self.memory.write(control, &parcel.header).unwrap();
        self.memory.write(data, &parcel.out).unwrap();
        self.memory.write(data, &vec![UNWRITTEN; parcel.in_len + 1][usize::from(parcel.in_len == 0)..]).unwrap();
        self.memory.write(status, &[UNWRITTEN]).unwrap();
        let header_len = u32::try_from(parcel.header.len()).unwrap();
        let mut chain = vec![Descriptor { addr: control, len: header_len, flags: 0, next: 0 }];
        chain.extend(pieces(data, parcel.out.len(), 0, random));
        chain.extend(pieces(data, parcel.in_len, DESC_F_WRITE, random));
        if parcel.unmapped {
            chain.push(Descriptor { addr: 1 << 40, len: 512, flags: DESC_F_WRITE, next: 0 });
        }
        match chain.last_mut() {
            Some(last) if parcel.in_len > 0 && !parcel.unmapped && random.bool() => {
                last.len += 1;
                status = data + parcel.in_len as u64;
            }
            _ => chain.push(Descriptor { addr: status, len: 1, flags: DESC_F_WRITE, next: 0 }),
        }
        let descriptors = self.place(&chain, control + 32, random);
        self.offer(descriptors[0]);
        self.pending.insert(descriptors[0], Pending { parcel, start, slot, descriptors, status, data });
    }

    /// Writes the chain into the ring's table, in any order, or into one of its own.
    fn place(&mut self, chain: &[Descriptor], table: u64, random: &mut fastrand::Rng) -> Vec<u16> {
        random.shuffle(&mut self.descriptors);
        let used = if self.indirect { 1 } else { chain.len() };
        let taken: Vec<u16> = self.descriptors.drain(..used).collect();
        let own: Vec<u16> = (0..u16::try_from(chain.len()).unwrap()).collect();
        let (base, order) = if self.indirect { (table, &own) } else { (self.ring.layout().desc, &taken) };
        for (at, descriptor) in chain.iter().enumerate() {
            let next = order.get(at + 1);
            let flags = descriptor.flags | if next.is_some() { DESC_F_NEXT } else { 0 };
            let full = Descriptor { flags, next: next.copied().unwrap_or(0), ..*descriptor };
            self.ring.write_descriptor_at(base, order[at], full).unwrap();
        }
        if self.indirect {
            let len = u32::try_from(chain.len() * 16).unwrap();
            let entry = Descriptor { addr: table, len, flags: DESC_F_INDIRECT, next: 0 };
            self.ring.write_descriptor(taken[0], entry).unwrap();
        }
        taken
    }

    /// Makes a request available that does not exist.
    pub fn send_nonsense(&mut self) {
        self.offer(self.layout().size);
    }

    fn offer(&mut self, head: u16) {
        let old = self.avail;
        self.avail = old.wrapping_add(1);
        self.ring.write_avail(old, head).unwrap();
        self.ring.set_avail_idx(self.avail).unwrap();
        if self.ring.needs_kick(old, self.avail).unwrap() {
            rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
        }
    }

    /// What has ended since the last time; a guest that waits for calls looks only when it was called.
    pub fn collect(&mut self) -> Result<Vec<Ended>, String> {
        let mut ended = Vec::new();
        if self.waits_for_calls && !take_signal(&self.call) {
            return Ok(ended);
        }
        loop {
            while self.used != self.used_idx() {
                ended.push(self.take_used()?);
            }
            if !self.waits_for_calls {
                return Ok(ended);
            }
            self.ring.enable_notifications(self.used).unwrap();
            if self.used == self.used_idx() {
                return Ok(ended);
            }
        }
    }

    fn take_used(&mut self) -> Result<Ended, String> {
        let element = self.ring.used_element(self.used).unwrap();
        self.used = self.used.wrapping_add(1);
        let head = u16::try_from(element.head).unwrap_or(u16::MAX);
        let pending = self.pending.remove(&head).ok_or_else(|| format!("head {head} ended and was not in flight"))?;
        let Pending { parcel, start, slot, descriptors, status, data } = pending;
        self.slots.push(slot);
        self.descriptors.extend(descriptors);
        let mut bytes = vec![0; parcel.in_len];
        self.memory.read(data, &mut bytes).unwrap();
        let status = self.memory.byte(status).unwrap();
        Ok(Ended { parcel, start, status, used_len: element.len, data: bytes })
    }
}

/// A buffer as one to three descriptors.
fn pieces(addr: u64, len: usize, flags: u16, random: &mut fastrand::Rng) -> Vec<Descriptor> {
    let mut cuts = vec![0, len];
    if len > 1 {
        let unit = if random.bool() || len < 1024 { 1 } else { 512 };
        cuts.extend((0..random.usize(0..=2)).map(|_| random.usize(0..len / unit) * unit));
    }
    cuts.sort_unstable();
    cuts.dedup();
    let piece = |pair: &[usize]| Descriptor {
        addr: addr + pair[0] as u64,
        len: u32::try_from(pair[1] - pair[0]).unwrap(),
        flags,
        next: 0,
    };
    cuts.windows(2).map(piece).collect()
}

/// Whether an eventfd was written to since the last look.
pub fn take_signal(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).unwrap() > 0 && rustix::io::read(fd, &mut [0; 8]).is_ok()
}
