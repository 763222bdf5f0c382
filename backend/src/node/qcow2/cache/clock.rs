//! Which slot is given away next: the first clean and unpinned one that nobody has looked at for a whole round.

use super::{CLAIMED, COLD, Cache, slot_of};
use crate::sync::Ordering;

#[derive(Clone, Copy, Default)]
struct Slot {
    table: Option<usize>,
    /// How often it has been given away; 31 bits go into directory entries.
    generation: u32,
}

/// The slots' owners, and where the hand stands.
pub(super) struct Clock {
    hand: usize,
    slots: Vec<Slot>,
}

impl Clock {
    pub(super) fn new(slots: usize) -> Self {
        Self { hand: 0, slots: vec![Slot::default(); slots] }
    }

    /// Adds slots until there are so many.
    pub(super) fn grow(&mut self, slots: usize) {
        self.slots.resize(slots.max(self.slots.len()), Slot::default());
    }

    /// Slots.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The table in a slot.
    pub(super) fn table(&self, slot: usize) -> Option<usize> {
        self.slots.get(slot)?.table
    }

    /// Takes a slot away from its table: nobody finds it or can pin it. Its number and its new generation.
    pub(super) fn claim(&mut self, cache: &Cache) -> Option<(usize, u32)> {
        // Two rounds: in the first, those that are warm get cold; who looks at one meanwhile may warm it again.
        for _ in 0..=2 * self.slots.len() {
            let number = self.hand;
            self.hand = (number + 1) % self.slots.len();
            if self.is_cold(cache, number) && self.take(cache, number) {
                let slot = &mut self.slots[number];
                slot.generation = slot.generation.wrapping_add(1);
                return Some((number, slot.generation));
            }
        }
        None
    }

    /// Says whose a claimed slot is now.
    pub(super) fn settle(&mut self, slot: usize, table: usize) {
        self.slots[slot].table = Some(table);
    }

    /// Whether nobody has looked at the slot since the hand was here; from now on nobody has.
    fn is_cold(&self, cache: &Cache, slot: usize) -> bool {
        let Some(table) = self.slots[slot].table else { return true };
        let entry = cache.directory[table].fetch_or(COLD, Ordering::Relaxed);
        debug_assert_eq!(slot_of(entry), Some(slot), "a slot's table names the slot");
        entry & COLD != 0
    }

    fn take(&mut self, cache: &Cache, slot: usize) -> bool {
        // Acquire: whoever had it pinned has read what he wanted. Neither dirty nor pinned, in one look.
        let claim = cache.states[slot].compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
        if claim.is_err() {
            return false;
        }
        if let Some(table) = self.slots[slot].table.take() {
            cache.directory[table].store(0, Ordering::Relaxed);
        }
        true
    }
}
