//! Which cuts of a recording are made: every phase of a write-back cycle gets as many, from all events of it, before and
//! after the first flush that failed.

use super::disks::{Disks, Survival};
use super::stream::Stream;
use crate::io::sim::recorded::Event;
use std::collections::{BTreeMap, BTreeSet};

/// One power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// So many events have happened.
    pub events: usize,
    pub survival: Survival,
}

/// So many cuts of a recording, in order.
pub fn choose(stream: &Stream, count: usize) -> Vec<Cut> {
    let mut random = fastrand::Rng::with_seed(stream.seed);
    let mut by_phase: BTreeMap<(&str, bool), Vec<Cut>> = BTreeMap::new();
    let lost = stream.first_lost();
    for cut in every(&stream.made.files, &stream.events, &mut random).into_iter().flatten() {
        by_phase.entry((stream.phase(cut.events), cut.events > lost)).or_default().push(cut);
    }
    let mut phases: Vec<Vec<Cut>> = by_phase.into_values().collect();
    phases.iter_mut().for_each(|cuts| random.shuffle(cuts));
    let mut chosen = Vec::new();
    while chosen.len() < count && !phases.is_empty() {
        phases.retain_mut(|cuts| {
            let cut = cuts.pop();
            chosen.extend(cut);
            cut.is_some()
        });
    }
    chosen.truncate(count);
    chosen.sort_by_key(|cut| cut.events);
    chosen
}

/// Cuts at every moment of a recording of these files, some for each.
pub fn every(files: &[Vec<u8>], events: &[Event], random: &mut fastrand::Rng) -> Vec<Vec<Cut>> {
    let mut disks = Disks::new(files);
    let cuts_after = |number| {
        disks.advance(events, number);
        let survivals = survivals(disks.pending(), random).into_iter();
        survivals.map(|survival| Cut { events: number, survival }).collect()
    };
    (0..=events.len()).map(cuts_after).collect()
}

/// Ways in which so many changes may survive: the last ones matter most.
fn survivals(pending: usize, random: &mut fastrand::Rng) -> Vec<Survival> {
    if pending == 0 {
        return vec![Survival::Nothing];
    }
    let mut ones: BTreeSet<usize> = (pending.saturating_sub(4)..pending).collect();
    ones.extend((0..4).map(|_| random.usize(0..pending)));
    let mut survivals = vec![Survival::Nothing, Survival::Everything];
    for one in ones {
        survivals.extend([Survival::AllBut(one), Survival::Only(one), Survival::TornOne(one, random.u64(..))]);
    }
    survivals.extend((0..3).flat_map(|_| [Survival::Some(random.u64(..)), Survival::Torn(random.u64(..))]));
    survivals
}
