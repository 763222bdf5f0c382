//! What many changes come to: for each guest cluster its last entry.

use super::record::Change;
use std::collections::BTreeMap;

/// Changes of clusters that are all different, by their first.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<u64, Change>);

impl Runs {
    /// Of changes in their order.
    pub(super) fn of(changes: impl IntoIterator<Item = Change>) -> Self {
        let mut runs = Self::default();
        changes.into_iter().for_each(|change| runs.put(change));
        runs
    }

    /// The runs, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.values()
    }

    fn put(&mut self, change: Change) {
        let (start, end) = (change.first, change.end());
        while let Some(below) = self.0.range(..end).next_back().map(|(_, run)| *run).filter(|run| run.end() > start) {
            self.0.remove(&below.first);
            self.keep(below, below.first, start);
            self.keep(below, end, below.end());
        }
        self.0.insert(start, change);
    }

    /// Keeps the part of a run that is from `start` to `end`.
    fn keep(&mut self, run: Change, start: u64, end: u64) {
        if let Some(count) =
            end.checked_sub(start).and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0)
        {
            self.0.insert(start, Change { first: start, count, word: run.word_of(start), step: run.step });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_last_change_of_a_cluster_counts(
            changes in proptest::collection::vec((0u64..40, 1u32..12, 0u64..1 << 40, prop_oneof![Just(0u32), Just(65536)]), 0..30),
        ) {
            let (mut model, mut all) = (BTreeMap::new(), Vec::new());
            for (first, count, word, step) in changes {
                (0..count).for_each(|number| {
                    model.insert(first + u64::from(number), word + u64::from(number) * u64::from(step));
                });
                all.push(Change { first, count, word, step });
            }
            let runs = Runs::of(all);
            let found: Vec<(u64, u64)> =
                runs.iter().flat_map(|run| (run.first..run.end()).map(|cluster| (cluster, run.word_of(cluster)))).collect();
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }
}
