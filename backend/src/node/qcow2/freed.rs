//! Clusters that no table leads to any more, until they may be used again.
//!
//! Two things have to come first: the tables without them are stable, or a crash would bring an entry back that leads
//! to another's content; and whoever found them before has ended. Then their space is given back to the file, if that
//! is wanted, and only then is their reference count lowered: nobody can have taken them meanwhile.

use crate::epoch::Passage;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Clusters in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// Offset of the first in its file.
    pub host: u64,
    /// How many.
    pub clusters: u64,
    /// Whether the file below is told that their content is no longer needed.
    pub punch: bool,
}

/// Bytes that are given back at a time: guests' requests to the file wait meanwhile.
const RUN_MAX: u64 = 64 << 20;

/// The same clusters, with those that follow each other as one, in images whose clusters have this many bytes.
pub fn in_runs(freed: Vec<Freed>, cluster: u64) -> Vec<Freed> {
    let mut runs: Vec<Freed> = Vec::new();
    for next in freed {
        let follows = |last: &&mut Freed| {
            let len = last.clusters * cluster;
            last.host + len == next.host && last.punch == next.punch && len + next.clusters * cluster <= RUN_MAX
        };
        match runs.last_mut().filter(follows) {
            Some(last) => last.clusters += next.clusters,
            None => runs.push(next),
        }
    }
    runs
}

/// What was freed, by how far it has come.
#[derive(Default)]
pub struct Quarantine {
    /// The tables without them may not be stable.
    volatile: Mutex<Vec<Freed>>,
    /// They are; those who found them may be under way.
    stable: Mutex<Vec<(Passage, Vec<Freed>)>>,
}

impl Quarantine {
    /// Adds what no table in memory leads to since now.
    pub fn add(&self, freed: Freed) {
        locked(&self.volatile).push(freed);
    }

    /// What a write-back cycle that begins now will make stable.
    pub fn begin(&self) -> Vec<Freed> {
        std::mem::take(&mut *locked(&self.volatile))
    }

    /// The cycle has failed.
    pub fn put_back(&self, batch: Vec<Freed>) {
        locked(&self.volatile).extend(batch);
    }

    /// The cycle is over; `passage` is of those who may have found them.
    pub fn settle(&self, batch: Vec<Freed>, passage: Passage) {
        if !batch.is_empty() {
            locked(&self.stable).push((passage, batch));
        }
    }

    /// What may be used again, which the caller sees to.
    pub fn take(&self) -> Vec<Freed> {
        let over = |(passage, _): &mut (Passage, Vec<Freed>)| passage.is_over();
        locked(&self.stable).extract_if(.., over).flat_map(|(_, batch)| batch).collect()
    }

    /// Whether anything waits here.
    pub fn is_empty(&self) -> bool {
        locked(&self.volatile).is_empty() && locked(&self.stable).is_empty()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::epoch::{Seat, Traffic};

    #[test]
    fn clusters_that_follow_each_other_are_given_back_together() {
        let freed = |host: u64, clusters: u64, punch: bool| Freed { host: host << 16, clusters, punch };
        let apart =
            [freed(3, 1, true), freed(4, 2, true), freed(6, 1, false), freed(6, 1, false), freed(2, 1, true)].to_vec();
        let runs = [freed(3, 3, true), freed(6, 1, false), freed(6, 1, false), freed(2, 1, true)];
        assert_eq!(in_runs(apart, 1 << 16), runs);
        let many: Vec<_> = (0..1500).map(|number| freed(number, 1, true)).collect();
        assert_eq!(in_runs(many, 1 << 16), [freed(0, 1024, true), freed(1024, 476, true)]);
    }

    #[test]
    fn what_is_freed_comes_out_when_it_is_stable_and_nobody_is_at_it() {
        let quarantine = Quarantine::default();
        let freed = Freed { host: 65536, clusters: 2, punch: true };
        quarantine.add(freed);
        assert_eq!(quarantine.take(), [], "the tables are not stable");
        let batch = quarantine.begin();
        quarantine.put_back(batch);
        let batch = quarantine.begin();
        let seat = Seat::new(None);
        seat.set_passing(Traffic::Requests, seat.round(Traffic::Requests), 1);
        quarantine.settle(batch, Passage::of(vec![seat.clone()]));
        assert_eq!(quarantine.take(), [], "somebody is under way");
        seat.set_passing(Traffic::Requests, 0, 0);
        assert_eq!(quarantine.take(), [freed]);
        assert!(quarantine.is_empty());
    }
}
