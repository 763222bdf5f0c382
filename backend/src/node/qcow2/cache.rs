//! Tables of words in memory, in a bounded number of slots; looked up without a lock and without waiting.
//!
//! A table's *directory entry* names its slot and how often that slot has been given away. Who looks a word up loads
//! the entry, the word, and the entry again: the same entry twice means that the word is the table's. A slot is given
//! to another table only when it is clean and nobody has it pinned, and its entry is taken back before its first word
//! changes. Knows neither files nor what the words mean; reads and writes nothing but memory.

mod clock;
mod pin;
pub(super) mod words;

pub use pin::Pin;

use crate::sync::{AtomicU64, Mutex, Ordering};
use clock::Clock;
use words::Words;

/// The most slots: a directory entry has 32 bits for their number, 0 being none.
const SLOTS_MAX: usize = 1 << 31;
/// Of a directory entry: not looked at since the clock's hand passed. The first who looks takes it away.
const COLD: u64 = 1 << 63;
/// Of a slot's state: words have changed since they were copied last.
const DIRTY: u64 = 1 << 63;
/// Of a slot's state: being given to another table. The rest of it counts pins.
const CLAIMED: u64 = 1 << 62;

/// Every slot is dirty or pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Slots for tables.
pub struct Cache {
    words_per_table: usize,
    /// By table: [`COLD`], 31 bits of generation, the slot's number plus one; 0 while the table is not here.
    directory: Words,
    /// By slot: [`DIRTY`], [`CLAIMED`], pins.
    states: Words,
    /// The slots' words, one slot after the other.
    words: Words,
    clock: Mutex<Clock>,
}

/// The number of the slot a directory entry names.
fn slot_of(entry: u64) -> Option<usize> {
    usize::try_from(entry & 0xffff_ffff).ok()?.checked_sub(1)
}

fn entry_of(slot: usize, generation: u32) -> u64 {
    (u64::from(generation) << 32 & !COLD) | (slot as u64 + 1)
}

/// Slots for so many of so many tables.
fn slots_for(max_tables: usize, tables: usize) -> usize {
    max_tables.clamp(1, SLOTS_MAX).min(tables.max(1))
}

impl Cache {
    /// Room for `max_tables` (at least one) of `tables` tables with `words_per_table` words each. Memory is used when
    /// tables come in.
    ///
    /// # Errors
    /// `None` when there is no memory.
    pub fn new(words_per_table: usize, max_tables: usize, tables: usize) -> Option<Self> {
        let slots = slots_for(max_tables, tables);
        Some(Self {
            words_per_table,
            directory: Words::zeroed(tables)?,
            states: Words::zeroed(slots)?,
            words: Words::zeroed(slots.checked_mul(words_per_table)?)?,
            clock: Mutex::new(Clock::new(slots)),
        })
    }

    /// Room for `max_tables` of `tables` tables, where it was for no more of less. One caller at a time. False, and
    /// nothing to be noticed, when there is no memory.
    pub fn grow(&self, max_tables: usize, tables: usize) -> bool {
        let slots = slots_for(max_tables, tables);
        let words = slots.checked_mul(self.words_per_table);
        let there = words.is_some_and(|words| self.words.grow(words));
        let grown = there && self.states.grow(slots) && self.directory.grow(tables);
        if grown {
            self.clock().grow(slots);
        }
        grown
    }

    /// A word of a table; `None` if the table is not here. Three atomic loads.
    #[inline]
    pub fn get(&self, table: usize, word: usize) -> Option<u64> {
        let entry = self.directory.get(table)?;
        let before = entry.load(Ordering::Acquire);
        let slot = slot_of(before)?;
        // Acquire: who sees a word of the slot's next table sees that this one's entry is gone.
        let value = self.words.get(slot * self.words_per_table + word)?.load(Ordering::Acquire);
        if (entry.load(Ordering::Relaxed) ^ before) & !COLD != 0 {
            return None;
        }
        if before & COLD != 0 {
            Self::warm(entry, before);
        }
        Some(value)
    }

    #[cold]
    fn warm(entry: &AtomicU64, seen: u64) {
        // If it fails it has been warmed or evicted.
        let _ = entry.compare_exchange(seen, seen & !COLD, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Keeps a table where it is; `None` if it is not here.
    pub fn pin(&self, table: usize) -> Option<Pin<'_>> {
        let entry = self.directory.get(table)?;
        let before = entry.load(Ordering::Acquire);
        let slot = slot_of(before)?;
        let add = |state: u64| (state & CLAIMED == 0).then_some(state + 1);
        // Acquire: who pins a slot after it was given away sees that the entry is gone.
        self.states.get(slot)?.fetch_update(Ordering::Acquire, Ordering::Relaxed, add).ok()?;
        let pin = Pin::new(self, slot);
        let now = entry.load(Ordering::Relaxed);
        if (now ^ before) & !COLD != 0 {
            return None;
        }
        if now & COLD != 0 {
            Self::warm(entry, now);
        }
        Some(pin)
    }

    /// Takes a table in, in the place of one not used lately, and pins it. If it is here already, it stays as it is.
    ///
    /// # Errors
    /// [`Full`] when there is no clean table that nobody has pinned.
    ///
    /// # Panics
    /// If `table` is no table or `words` not as many as a table has.
    pub fn insert(&self, table: usize, words: &[u64]) -> Result<Pin<'_>, Full> {
        assert_eq!(words.len(), self.words_per_table, "a whole table");
        let mut clock = self.clock();
        // Whoever inserts holds the clock: nobody evicts it meanwhile.
        if let Some(pin) = self.pin(table) {
            return Ok(pin);
        }
        let (slot, generation) = clock.claim(self).ok_or(Full)?;
        for (word, value) in self.slot(slot).iter().zip(words) {
            // Release, after the old entry has gone: see `get`.
            word.store(*value, Ordering::Release);
        }
        clock.settle(slot, table);
        // Nobody pins while it is claimed. Release, after the old entry has gone: see `pin`.
        self.states[slot].store(1, Ordering::Release);
        self.directory[table].store(entry_of(slot, generation), Ordering::Release);
        Ok(Pin::new(self, slot))
    }

    /// Tables that have changed since they were taken last, in order.
    pub fn dirty(&self) -> Vec<usize> {
        let clock = self.clock();
        let is_dirty = |state: &AtomicU64| state.load(Ordering::Acquire) & DIRTY != 0;
        let slots = (0..clock.slots()).filter(|slot| is_dirty(&self.states[*slot]));
        let mut tables: Vec<usize> = slots.filter_map(|slot| clock.table(slot)).collect();
        tables.sort_unstable();
        tables
    }

    /// A copy of a table that has changed, which counts as unchanged from then on; `None` if it has not. The pin is to
    /// be kept until the copy has been written: until then nobody may read the table from where it is stored.
    pub fn take_dirty(&self, table: usize) -> Option<(Pin<'_>, Vec<u64>)> {
        let pin = self.pin(table)?;
        // Acquire, and before the copy: what is set from now on makes it dirty again.
        let state = self.states[pin.slot()].fetch_and(!DIRTY, Ordering::AcqRel);
        (state & DIRTY != 0).then(|| {
            let words = pin.copy();
            (pin, words)
        })
    }

    /// The tables that are here, in no order. Those that come meanwhile may be missing.
    pub fn resident(&self) -> Vec<usize> {
        let clock = self.clock();
        (0..self.states.len()).filter_map(|slot| clock.table(slot)).collect()
    }

    /// Slots.
    pub fn max_tables(&self) -> usize {
        self.clock().slots()
    }

    fn slot(&self, slot: usize) -> &[AtomicU64] {
        let start = slot * self.words_per_table;
        // The words become more by whole slots.
        self.words.slice(start..start + self.words_per_table).unwrap_or_default()
    }

    fn clock(&self) -> impl std::ops::DerefMut<Target = Clock> + '_ {
        self.clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
