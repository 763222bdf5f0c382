//! The areas of one generation that may be written to: those that the journal has stably, and those it is to have.
//!
//! The Journal ordering: an area's bit is stable before the first write into the area is submitted. So [`Areas::cover`]
//! says yes only after [`Areas::stable`], and what is stable never becomes less.

use super::sector::WORDS;
use super::{AreaSector, pairs};
use crate::sync::{AtomicU64, Ordering};
use crate::{Granularity, OutOfMemory, zeroed};

/// Areas of a disk, in one generation. Any number of threads ask.
pub struct Areas {
    generation: u64,
    area: Granularity,
    /// Whole sectors of bits: what the journal has.
    stable: Box<[AtomicU64]>,
    /// What somebody wants to write to.
    wanted: Box<[AtomicU64]>,
    /// What somebody asked for in this generation.
    touched: Box<[AtomicU64]>,
}

impl Areas {
    /// A generation that has no area yet, of a disk of `size` bytes.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(generation: u64, size: u64, area: Granularity) -> Result<Self, OutOfMemory> {
        let words = pairs(size, area).saturating_mul(WORDS as u64);
        Ok(Self { generation, area, stable: zeroed(words)?, wanted: zeroed(words)?, touched: zeroed(words)? })
    }

    /// Its number.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of an area.
    pub fn area(&self) -> Granularity {
        self.area
    }

    /// Whether every area that the range touches may be written to; those that do not exist may.
    #[inline]
    pub fn cover(&self, offset: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        let (first, last) = self.span(offset, len);
        if first == last && Self::bit(&self.stable, first) && Self::bit(&self.touched, first) {
            return true;
        }
        self.touch_all(first, last)
    }

    #[inline]
    fn span(&self, offset: u64, len: u64) -> (u64, u64) {
        let bits = self.area.bits();
        (offset >> bits, offset.saturating_add(len - 1) >> bits)
    }

    #[inline]
    fn bit(words: &[AtomicU64], area: u64) -> bool {
        let word = words.get(usize::try_from(area / 64).unwrap_or(usize::MAX));
        word.is_none_or(|word| word.load(Ordering::Acquire) >> (area % 64) & 1 == 1)
    }

    #[inline(never)]
    fn touch_all(&self, first: u64, last: u64) -> bool {
        Self::set(&self.touched, first, last);
        (first..=last).all(|area| Self::bit(&self.stable, area))
    }

    fn set(words: &[AtomicU64], first: u64, last: u64) {
        for area in first..=last {
            let Some(word) = words.get(usize::try_from(area / 64).unwrap_or(usize::MAX)) else { return };
            word.fetch_or(1 << (area % 64), Ordering::AcqRel);
        }
    }

    /// Wants the areas that a range touches.
    pub fn want(&self, offset: u64, len: u64) {
        let (first, last) = self.span(offset, len.max(1));
        Self::set(&self.wanted, first, last);
    }

    /// Wants every area that somebody asked for in the generation before: a steady load has them again.
    pub fn want_touched_of(&self, last: &Self) {
        for (wanted, touched) in self.wanted.iter().zip(&last.touched) {
            wanted.fetch_or(touched.load(Ordering::Acquire), Ordering::AcqRel);
        }
    }

    /// The same generation of a disk that has another size now.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn resized(&self, size: u64) -> Result<Self, OutOfMemory> {
        let new = Self::new(self.generation, size, self.area)?;
        let all = [(&new.stable, &self.stable), (&new.wanted, &self.wanted), (&new.touched, &self.touched)];
        for (new, old) in all.into_iter().flat_map(|(new, old)| new.iter().zip(old)) {
            new.store(old.load(Ordering::Acquire), Ordering::Release);
        }
        Ok(new)
    }

    /// Every area may be written to: nobody keeps a journal any more.
    pub fn waive(&self) {
        self.stable.iter().for_each(|word| word.store(u64::MAX, Ordering::Release));
    }

    /// The sectors in which something is wanted that the journal does not have, with all that is wanted now.
    pub fn lacking(&self, number: u64) -> Vec<AreaSector> {
        let pairs = self.wanted.len() / WORDS;
        (0..pairs).filter_map(|pair| self.lacking_in(number, pair)).collect()
    }

    fn lacking_in(&self, number: u64, pair: usize) -> Option<AreaSector> {
        let range = pair * WORDS..(pair + 1) * WORDS;
        let (wanted, stable) = (self.wanted.get(range.clone())?, self.stable.get(range)?);
        let words: [u64; WORDS] = std::array::from_fn(|at| wanted[at].load(Ordering::Acquire));
        let mut both = words.iter().zip(stable).filter(|(wanted, _)| **wanted != 0);
        let lacks = both.any(|(wanted, stable)| wanted & !stable.load(Ordering::Acquire) != 0);
        let sector = AreaSector { number, generation: self.generation, pair: pair as u64, words };
        lacks.then_some(sector)
    }

    /// The journal has these sectors now, stably.
    pub fn stable(&self, sectors: &[AreaSector]) {
        for sector in sectors {
            let first = usize::try_from(sector.pair).unwrap_or(usize::MAX).saturating_mul(WORDS);
            let both = self.stable.iter().skip(first).zip(&sector.words);
            for (stable, word) in both.filter(|(_, word)| **word != 0) {
                stable.fetch_or(*word, Ordering::AcqRel);
            }
        }
    }

    /// Areas that may be written to.
    pub fn count(&self) -> u64 {
        self.stable.iter().map(|word| u64::from(word.load(Ordering::Acquire).count_ones())).sum()
    }
}

impl std::fmt::Debug for Areas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Areas(generation {}, {} of {} bytes)", self.generation, self.count(), self.area.bytes())
    }
}
