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
