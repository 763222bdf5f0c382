//! From a request to descriptors in guest memory and back to the free list.
//!
//! It lays out one chain and takes or returns its descriptors; avail and used ring are the parent's. A chain is
//! remembered in private memory, so that freeing it never follows what guest memory says.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::{Queue, SEGMENT_OFFSET, STATUS_OFFSET};
use crate::SECTOR_SIZE;
use crate::error::{Error, Result};
use crate::memory::GuestBuf;
use crate::request::{ID_LEN, Request, Status, WRITE_ZEROES_F_UNMAP, request_type};
use crate::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor};

impl Queue {
    /// Writes header, status and, for a discard, its segment to the slot of `head`; pushes the chain's buffers.
    #[inline]
    pub(super) fn describe(&self, head: u16, request: &Request<'_>, chain: &mut Vec<Descriptor>) -> Result<()> {
        let control = self.control(head);
        self.region().atomic::<AtomicU8>(control + STATUS_OFFSET)?.store(Status::UNWRITTEN, Ordering::Relaxed);
        chain.push(Descriptor { addr: control, len: 16, ..Descriptor::default() });
        let (kind, sector) = match *request {
            Request::Read { offset, data } => {
                chain.extend(data.iter().map(|buf| descriptor(*buf, true)));
                (request_type::IN, sectors(offset)?)
            }
            Request::Write { offset, data } => {
                chain.extend(data.iter().map(|buf| descriptor(*buf, false)));
                (request_type::OUT, sectors(offset)?)
            }
            Request::Flush => (request_type::FLUSH, 0),
            Request::Discard { offset, len } => {
                chain.push(self.write_segment(head, offset, len, 0)?);
                (request_type::DISCARD, 0)
            }
            Request::WriteZeroes { offset, len, unmap } => {
                let flags = if unmap { WRITE_ZEROES_F_UNMAP } else { 0 };
                chain.push(self.write_segment(head, offset, len, flags)?);
                (request_type::WRITE_ZEROES, 0)
            }
            Request::GetId { data } => {
                chain.push(descriptor(GuestBuf { addr: data.addr, len: data.len.min(ID_LEN) }, true));
                (request_type::GET_ID, 0)
            }
            Request::Raw { kind, sector, segments } => {
                chain.extend(segments.iter().map(|segment| descriptor(segment.buf, segment.device_writes)));
                (kind, sector)
            }
        };
        self.region().atomic::<AtomicU64>(control)?.store(u64::from(kind), Ordering::Relaxed);
        self.region().atomic::<AtomicU64>(control + 8)?.store(sector, Ordering::Relaxed);
        chain.push(descriptor(GuestBuf { addr: control + STATUS_OFFSET, len: 1 }, true));
        Ok(())
    }

    /// The 16 bytes that name the range of a discard or write-zeroes (virtio 1.2, 5.2.6.3).
    fn write_segment(&self, head: u16, offset: u64, len: u64, flags: u32) -> Result<Descriptor> {
        let addr = self.control(head) + SEGMENT_OFFSET;
        let count = u32::try_from(sectors(len)?).map_err(|_| Error::Invalid { what: "length", value: len })?;
        self.region().atomic::<AtomicU64>(addr)?.store(sectors(offset)?, Ordering::Relaxed);
        self.region().atomic::<AtomicU32>(addr + 8)?.store(count, Ordering::Relaxed);
        self.region().atomic::<AtomicU32>(addr + 12)?.store(flags, Ordering::Relaxed);
        Ok(descriptor(GuestBuf { addr, len: 16 }, false))
    }

    /// Writes the chain to the ring's table, or to the slot's own with one descriptor in the ring; takes what it uses.
    #[inline]
    pub(super) fn place(&mut self, head: u16, chain: &[Descriptor]) -> Result<u16> {
        let too_long = Error::Invalid { what: "number of segments", value: chain.len() as u64 };
        let Ok(count) = u16::try_from(chain.len()) else { return Err(too_long) };
        let Some((tables, entries)) = self.tables else { return self.place_direct(chain, count, too_long) };
        if count > entries {
            return Err(too_long);
        }
        let table = tables.addr + u64::from(head) * u64::from(entries) * DESC_LEN;
        for (descriptor, index) in chain.iter().zip(0..count) {
            let (flags, next) =
                if index + 1 < count { (descriptor.flags | DESC_F_NEXT, index + 1) } else { (descriptor.flags, 0) };
            self.ring.write_descriptor_at(table, index, Descriptor { flags, next, ..*descriptor })?;
        }
        let len = u32::from(count) * 16;
        self.ring.write_descriptor(head, Descriptor { addr: table, len, flags: DESC_F_INDIRECT, next: 0 })?;
        self.free.pop();
        Ok(1)
    }

    #[inline]
    fn place_direct(&mut self, chain: &[Descriptor], count: u16, too_long: Error) -> Result<u16> {
        if count > self.size() {
            return Err(too_long);
        }
        if usize::from(count) > self.free.len() {
            return Err(Error::QueueFull { queue: self.index });
        }
        // From the tail of the chain to its head, so that each one knows its successor. The head comes off the list
        // last because `enqueue` saw it at the end: walk the list's last `count` entries upwards.
        let first = self.free.len() - usize::from(count);
        let mut next = None;
        for (position, descriptor) in (first..).zip(chain.iter().rev()) {
            let index = self.free.get(position).copied().unwrap_or(0);
            let flags = descriptor.flags | if next.is_some() { DESC_F_NEXT } else { 0 };
            self.ring.write_descriptor(index, Descriptor { flags, next: next.unwrap_or(0), ..*descriptor })?;
            if let Some(link) = self.next.get_mut(usize::from(index)) {
                *link = next.unwrap_or(0);
            }
            next = Some(index);
        }
        self.free.truncate(first);
        Ok(count)
    }

    #[inline]
    pub(super) fn release(&mut self, head: u16, descriptors: u16) {
        let mut index = head;
        for _ in 0..descriptors {
            self.free.push(index);
            index = self.next.get(usize::from(index)).copied().unwrap_or(0);
        }
        self.in_flight -= 1;
    }
}

#[inline]
fn descriptor(buf: GuestBuf, device_writes: bool) -> Descriptor {
    let flags = if device_writes { DESC_F_WRITE } else { 0 };
    Descriptor { addr: buf.addr, len: buf.len, flags, next: 0 }
}

#[inline]
fn sectors(bytes: u64) -> Result<u64> {
    if !bytes.is_multiple_of(SECTOR_SIZE) {
        return Err(Error::Invalid { what: "offset or length that is not in whole sectors", value: bytes });
    }
    Ok(bytes / SECTOR_SIZE)
}
