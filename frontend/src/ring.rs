//! The driver's end of a split virtqueue (virtio 1.2, 2.7), bare.
//!
//! It reads and writes the three parts of the ring where they lie in guest memory and computes when a notification is
//! due. It keeps no state of its own, so that clones agree, and enforces nothing: any descriptor, index or used
//! event can be written, which is what tests of bad input need. [`crate::Queue`] is the well-behaved user.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use crate::error::{Error, Result};
use crate::memory::{Arena, GuestMemory, Region};

/// The chain goes on at `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The device writes to this buffer.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// In the avail ring's flags: do not send used buffer notifications.
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// In the used ring's flags: do not send available buffer notifications.
const USED_F_NO_NOTIFY: u16 = 1;
/// Bytes of a descriptor.
pub(crate) const DESC_LEN: u64 = 16;

/// One entry of a descriptor table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address of the buffer.
    pub addr: u64,
    /// Length of the buffer in bytes.
    pub len: u32,
    /// `DESC_F_*`.
    pub flags: u16,
    /// Next descriptor in the chain, with [`DESC_F_NEXT`].
    pub next: u16,
}

/// One entry of the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedElement {
    /// Head of the completed chain, as the device wrote it.
    pub head: u32,
    /// Bytes the device says it wrote.
    pub len: u32,
}

/// Guest physical addresses of the three parts of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

impl RingLayout {
    /// Places a ring of `size` descriptors, each part on a page of its own as Linux does.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `size` is a power of two up to 32768; [`Error::ArenaFull`].
    pub fn alloc(size: u16, arena: &mut Arena) -> Result<RingLayout> {
        if !size.is_power_of_two() {
            return Err(Error::Invalid { what: "queue size", value: u64::from(size) });
        }
        let entries = u32::from(size);
        let desc = arena.alloc(16 * entries, 4096)?.addr;
        let avail = arena.alloc(6 + 2 * entries, 4096)?.addr;
        let used = arena.alloc(6 + 8 * entries, 4096)?.addr;
        Ok(RingLayout { size, desc, avail, used })
    }
}

/// A split ring in guest memory.
#[derive(Clone, Debug)]
pub struct Ring {
    region: Arc<Region>,
    layout: RingLayout,
    event_idx: bool,
}

impl Ring {
    /// The ring at `layout`; `event_idx` as negotiated. Does not write to it: fresh guest memory is a valid empty ring.
    ///
    /// # Errors
    /// [`Error::BadAddress`] unless one region holds the whole ring.
    pub fn new(memory: &GuestMemory, layout: RingLayout, event_idx: bool) -> Result<Ring> {
        let entries = u64::from(layout.size);
        let region = memory.region(layout.desc, entries * DESC_LEN)?;
        region.slice(layout.avail, usize::from(layout.size) * 2 + 6)?;
        region.slice(layout.used, usize::from(layout.size) * 8 + 6)?;
        Ok(Ring { region: Arc::clone(region), layout, event_idx })
    }

    /// Where it lies.
    pub fn layout(&self) -> RingLayout {
        self.layout
    }

    /// The region that holds it.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Writes descriptor `index` of the ring's table.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if the index leads out of the region.
    #[inline]
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) -> Result<()> {
        self.write_descriptor_at(self.layout.desc, index, descriptor)
    }

    /// Writes descriptor `index` of a table anywhere in the ring's region, such as an indirect one.
    ///
    /// # Errors
    /// [`Error::BadAddress`] outside of the region.
    #[inline]
    pub fn write_descriptor_at(&self, table: u64, index: u16, descriptor: Descriptor) -> Result<()> {
        let addr = table + u64::from(index) * DESC_LEN;
        let tail = u64::from(descriptor.len) | u64::from(descriptor.flags) << 32 | u64::from(descriptor.next) << 48;
        self.region.atomic::<AtomicU64>(addr)?.store(descriptor.addr, Ordering::Relaxed);
        self.region.atomic::<AtomicU64>(addr + 8)?.store(tail, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a chain's head into the slot that avail index `index` will reveal. Not visible until [`Ring::set_avail_idx`].
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    #[inline]
    pub fn write_avail(&self, index: u16, head: u16) -> Result<()> {
        let slot = self.layout.avail + 4 + 2 * u64::from(index % self.layout.size);
        self.region.atomic::<AtomicU16>(slot)?.store(head, Ordering::Relaxed);
        Ok(())
    }

    /// The avail index as it stands.
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    pub fn avail_idx(&self) -> Result<u16> {
        Ok(self.region.atomic::<AtomicU16>(self.layout.avail + 2)?.load(Ordering::Acquire))
    }

    /// Publishes every slot before `index` to the device.
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    #[inline]
    pub fn set_avail_idx(&self, index: u16) -> Result<()> {
        self.region.atomic::<AtomicU16>(self.layout.avail + 2)?.store(index, Ordering::Release);
        Ok(())
    }

    /// Puts one chain into the avail ring and publishes it, without any bookkeeping.
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    pub fn offer(&self, head: u16) -> Result<()> {
        let index = self.avail_idx()?;
        self.write_avail(index, head)?;
        self.set_avail_idx(index.wrapping_add(1))
    }

    /// Whether the device wants a kick for the entries published between `old` and `new`.
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    #[inline]
    pub fn needs_kick(&self, old: u16, new: u16) -> Result<bool> {
        // The avail index must be visible before the device's wish is read (virtio 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let avail_event = self.layout.used + 4 + 8 * u64::from(self.layout.size);
            let event = self.region.atomic::<AtomicU16>(avail_event)?.load(Ordering::Relaxed);
            Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
        } else {
            let flags = self.region.atomic::<AtomicU16>(self.layout.used)?.load(Ordering::Relaxed);
            Ok(flags & USED_F_NO_NOTIFY == 0)
        }
    }

    /// The used index as the device wrote it.
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    #[inline]
    pub fn used_idx(&self) -> Result<u16> {
        Ok(self.region.atomic::<AtomicU16>(self.layout.used + 2)?.load(Ordering::Acquire))
    }

    /// The used element at used index `index`.
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    #[inline]
    pub fn used_element(&self, index: u16) -> Result<UsedElement> {
        let slot = self.layout.used + 4 + 8 * u64::from(index % self.layout.size);
        let head = self.region.atomic::<AtomicU32>(slot)?.load(Ordering::Relaxed);
        let len = self.region.atomic::<AtomicU32>(slot + 4)?.load(Ordering::Relaxed);
        Ok(UsedElement { head, len })
    }

    /// Asks for a notification as soon as the used index passes `seen`, everything before having been consumed.
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    pub fn enable_notifications(&self, seen: u16) -> Result<()> {
        if self.event_idx {
            self.set_used_event(seen)?;
        } else {
            self.region.atomic::<AtomicU16>(self.layout.avail)?.store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Asks for no notification during the next 32768 completions after `seen`.
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    pub fn disable_notifications(&self, seen: u16) -> Result<()> {
        if self.event_idx {
            self.set_used_event(seen.wrapping_sub(1))
        } else {
            let flags = self.region.atomic::<AtomicU16>(self.layout.avail)?;
            flags.store(AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
            Ok(())
        }
    }

    /// Writes the used event: the device notifies when the used index moves past it (with `EVENT_IDX`).
    ///
    /// # Errors
    /// None in a ring made by [`Ring::new`].
    pub fn set_used_event(&self, event: u16) -> Result<()> {
        let addr = self.layout.avail + 4 + 2 * u64::from(self.layout.size);
        self.region.atomic::<AtomicU16>(addr)?.store(event, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::RegionSpec;

    fn ring(event_idx: bool) -> (GuestMemory, Ring) {
        let spec = RegionSpec { addr: 1 << 32, len: 1 << 20 };
        let memory = GuestMemory::new(&[spec]).unwrap();
        let layout = RingLayout::alloc(4, &mut Arena::new(spec)).unwrap();
        let ring = Ring::new(&memory, layout, event_idx).unwrap();
        (memory, ring)
    }

    #[test]
    fn a_kick_is_due_when_the_avail_event_is_passed_also_across_the_wrap() {
        let (memory, ring) = ring(true);
        // (avail event, old, new, due), the event being the index whose publication is of interest.
        let cases = [(0, 0, 1, true), (1, 0, 1, false), (5, 3, 6, true), (5, 3, 5, false), (5, 6, 9, false)];
        let across = [(65535, 65534, 1, true), (0, 65534, 1, true), (1, 65534, 1, false)];
        for (event, old, new, due) in cases.into_iter().chain(across) {
            memory.write(ring.layout().used + 4 + 8 * 4, &u16::to_le_bytes(event)).unwrap();
            assert_eq!(ring.needs_kick(old, new).unwrap(), due, "event {event}, {old}..{new}");
        }
    }

    #[test]
    fn without_event_idx_the_used_flags_decide_on_kicks() {
        let (memory, ring) = ring(false);
        assert!(ring.needs_kick(0, 1).unwrap());
        memory.write(ring.layout().used, &[1, 0]).unwrap();
        assert!(!ring.needs_kick(0, 1).unwrap());
    }

    #[test]
    fn a_descriptor_lies_in_memory_as_the_specification_says() {
        let (memory, ring) = ring(false);
        let descriptor = Descriptor { addr: 0x1122_3344_5566_7788, len: 0x99aa_bbcc, flags: 0x0102, next: 0x0304 };
        ring.write_descriptor(1, descriptor).unwrap();
        let mut bytes = [0; 16];
        memory.read(ring.layout().desc + 16, &mut bytes).unwrap();
        let expected = [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xcc, 0xbb, 0xaa, 0x99, 2, 1, 4, 3];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_size_that_is_no_power_of_two_is_refused() {
        let mut arena = Arena::new(RegionSpec { addr: 0, len: 1 << 20 });
        assert!(RingLayout::alloc(0, &mut arena).is_err());
        assert!(RingLayout::alloc(100, &mut arena).is_err());
    }
}
