//! Disks at some event of a recording: what is stable, what is not, and every state a power cut may leave.
//!
//! What is not stable is there or not, sector by sector; of two changes of one sector the later one is never followed by
//! the earlier one, for a cache has one state of a sector. A disk's length is that of some change before.

use crate::io::FileId;
use crate::io::sim::recorded::{Change, Event};
use std::collections::HashMap;
use std::ops::Range;

const SECTOR: usize = 512;

/// A change that is not stable.
struct Pending {
    /// The number of its event.
    number: usize,
    change: Change,
    /// Sectors that are neither stable nor overtaken by what is.
    open: Vec<bool>,
    /// No flush makes it stable any more.
    given_up: bool,
}

impl Pending {
    fn sectors(&self) -> Range<usize> {
        match &self.change {
            Change::Sectors { offset, bytes, .. } => {
                let first = usize::try_from(*offset).unwrap() / SECTOR;
                first..first + bytes.len().div_ceil(SECTOR)
            }
            Change::Length(_) => 0..0,
        }
    }

    fn is_settled(&self) -> bool {
        matches!(self.change, Change::Sectors { .. }) && !self.open.contains(&true)
    }
}

#[derive(Default)]
struct Disk {
    stable: Vec<u8>,
    pending: Vec<Pending>,
}

/// Which of the changes that are not stable are there after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Survival {
    /// None.
    Nothing,
    /// Each.
    Everything,
    /// Each but this.
    AllBut(usize),
    /// This alone.
    Only(usize),
    /// Some, by chance.
    Some(u64),
    /// Some sectors, by chance.
    Torn(u64),
    /// All but some sectors of this.
    TornOne(usize, u64),
}

/// What has become of changes that were not stable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    pub dropped: usize,
    pub torn: usize,
}

/// The disks.
pub struct Disks {
    disks: Vec<Disk>,
    next: usize,
}

impl Disks {
    /// As they were when recording began.
    pub fn new(contents: &[Vec<u8>]) -> Self {
        let disk = |content: &Vec<u8>| Disk { stable: content.clone(), pending: Vec::new() };
        Self { disks: contents.iter().map(disk).collect(), next: 0 }
    }

    /// As they are when the first `events` of these have happened.
    pub fn advance(&mut self, all: &[Event], events: usize) {
        for (number, event) in all.iter().enumerate().take(events).skip(self.next) {
            match event {
                Event::Change { file, change } => {
                    let pending = Pending { number, change: change.clone(), open: Vec::new(), given_up: false };
                    let open = vec![true; pending.sectors().len()];
                    self.disk(*file).pending.push(Pending { open, ..pending });
                }
                Event::Stable { file, before, bytes } => self.disk(*file).settle(*before, bytes),
                Event::GivenUp { file, before } => {
                    let pending = self.disk(*file).pending.iter_mut();
                    pending.filter(|pending| pending.number < *before).for_each(|pending| pending.given_up = true);
                }
            }
        }
        self.next = self.next.max(events);
    }

    fn disk(&mut self, file: FileId) -> &mut Disk {
        &mut self.disks[file.0 as usize]
    }

    /// How many changes are not stable.
    pub fn pending(&self) -> usize {
        self.disks.iter().map(|disk| disk.pending.len()).sum()
    }

    /// What a power cut leaves.
    pub fn cut(&self, survival: Survival) -> (Vec<Vec<u8>>, Losses) {
        let mut random = match survival {
            Survival::Some(seed) | Survival::Torn(seed) | Survival::TornOne(_, seed) => fastrand::Rng::with_seed(seed),
            Survival::AllBut(one) | Survival::Only(one) => fastrand::Rng::with_seed(one as u64),
            Survival::Nothing | Survival::Everything => fastrand::Rng::with_seed(0),
        };
        let mut losses = Losses::default();
        let mut number = 0;
        let contents = self.disks.iter().map(|disk| disk.cut(survival, &mut number, &mut random, &mut losses));
        (contents.collect(), losses)
    }
}

impl Disk {
    /// What was changed before this event is stable from now on.
    fn settle(&mut self, before: usize, bytes: &Range<u64>) {
        let mut settled: HashMap<usize, usize> = HashMap::new();
        for pending in self.pending.iter().filter(|pending| pending.number < before && !pending.given_up) {
            if let Change::Length(length) = pending.change {
                self.stable.resize(usize::try_from(length).unwrap().max(self.stable.len()), 0);
            }
            let inside = |sector: &usize| bytes.contains(&((sector * SECTOR) as u64));
            for sector in pending.sectors().filter(inside) {
                settled.insert(sector, pending.number);
                if pending.open[sector - pending.sectors().start] {
                    put(&mut self.stable, &pending.change, sector);
                }
            }
        }
        for pending in &mut self.pending {
            for (sector, open) in pending.sectors().zip(&mut pending.open) {
                *open &= settled.get(&sector).is_none_or(|last| *last < pending.number);
            }
        }
        let is_over = |pending: &Pending| match pending.change {
            Change::Length(_) => pending.number < before && !pending.given_up,
            Change::Sectors { .. } => pending.is_settled(),
        };
        self.pending.retain(|pending| !is_over(pending));
    }

    fn cut(&self, survival: Survival, number: &mut usize, random: &mut fastrand::Rng, losses: &mut Losses) -> Vec<u8> {
        let mut content = self.stable.clone();
        let mut length = content.len();
        for Pending { change, open, .. } in &self.pending {
            let Change::Length(longer) = change else { continue };
            length = length.max(usize::try_from(*longer).unwrap());
            let lost = match survival {
                Survival::Nothing => true,
                Survival::Everything => false,
                _ => random.u8(0..4) == 0,
            };
            if lost {
                losses.dropped += 1;
                break;
            }
            debug_assert!(open.is_empty());
            content.resize(length, 0);
        }
        for pending in &self.pending {
            let one = *number;
            *number += 1;
            if let Change::Sectors { .. } = pending.change {
                let kept = pending.survive(survival, one, random, losses);
                kept.into_iter().for_each(|sector| put(&mut content, &pending.change, sector));
            }
        }
        content
    }
}

impl Pending {
    /// The sectors of it that are there.
    fn survive(&self, survival: Survival, one: usize, random: &mut fastrand::Rng, losses: &mut Losses) -> Vec<usize> {
        let (whole, torn) = match survival {
            Survival::Nothing => (false, false),
            Survival::Everything => (true, false),
            Survival::AllBut(other) => (one != other, false),
            Survival::Only(other) => (one == other, false),
            Survival::Some(_) => (random.bool(), false),
            Survival::Torn(_) => (true, true),
            Survival::TornOne(other, _) => (true, one == other),
        };
        let open = || self.sectors().zip(&self.open).filter(|(_, open)| **open).map(|(sector, _)| sector);
        let kept: Vec<usize> = open().filter(|_| whole && (!torn || random.bool())).collect();
        losses.dropped += usize::from(kept.is_empty());
        losses.torn += usize::from(!kept.is_empty() && kept.len() < open().count());
        kept
    }
}

/// Puts one sector of a change into a disk, if the disk is that long.
fn put(content: &mut [u8], change: &Change, sector: usize) {
    let Change::Sectors { offset, bytes, .. } = change else { return };
    let at = sector * SECTOR;
    let from = at - usize::try_from(*offset).unwrap();
    let len = SECTOR.min(bytes.len() - from).min(content.len().saturating_sub(at));
    if len > 0 {
        content[at..at + len].copy_from_slice(&bytes[from..from + len]);
    }
}
