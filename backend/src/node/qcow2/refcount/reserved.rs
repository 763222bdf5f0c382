//! Clusters that are never handed out, whatever their reference count says: an image may say anything.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of cluster numbers, disjoint and not adjacent: the end by the start.
#[derive(Debug, Default)]
pub(super) struct Reserved(BTreeMap<u64, u64>);

impl Reserved {
    /// Where the range that `cluster` is in ends, if it is in one.
    pub(super) fn end_of(&self, cluster: u64) -> Option<u64> {
        let (_, end) = self.0.range(..=cluster).next_back()?;
        (*end > cluster).then_some(*end)
    }

    /// The first reserved cluster from this one on.
    pub(super) fn first_from(&self, cluster: u64) -> Option<u64> {
        match self.end_of(cluster) {
            Some(_) => Some(cluster),
            None => self.0.range(cluster..).next().map(|(start, _)| *start),
        }
    }

    /// Where the last range ends; 0 if there is none.
    pub(super) fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// Adds a range; parts of it may be there.
    pub(super) fn add(&mut self, mut clusters: Range<u64>) {
        if clusters.is_empty() {
            return;
        }
        while let Some((start, end)) = self.0.range(..=clusters.end).next_back().map(|(start, end)| (*start, *end))
            && end >= clusters.start
        {
            clusters = clusters.start.min(start)..clusters.end.max(end);
            self.0.remove(&start);
        }
        self.0.insert(clusters.start, clusters.end);
    }

    /// Takes a range out; parts of it may not be there.
    pub(super) fn remove(&mut self, clusters: Range<u64>) {
        if clusters.is_empty() {
            return;
        }
        while let Some((start, end)) = self.0.range(..clusters.end).next_back().map(|(start, end)| (*start, *end))
            && end > clusters.start
        {
            self.0.remove(&start);
            if start < clusters.start {
                self.0.insert(start, clusters.start);
            }
            if end > clusters.end {
                self.0.insert(clusters.end, end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ranges_are_the_sets_of_their_clusters() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut ranges, mut set) = (Reserved::default(), BTreeSet::new());
        for _ in 0..2000 {
            let start = random.u64(0..60);
            let range = start..start + random.u64(0..8);
            match random.bool() {
                true => {
                    set.extend(range.clone());
                    ranges.add(range);
                }
                false => {
                    set.retain(|cluster| !range.contains(cluster));
                    ranges.remove(range);
                }
            }
            for cluster in 0..70 {
                assert_eq!(ranges.end_of(cluster).is_some(), set.contains(&cluster), "{ranges:?}");
                assert_eq!(ranges.first_from(cluster), set.range(cluster..).next().copied(), "{ranges:?}");
            }
            assert!(ranges.0.iter().zip(ranges.0.iter().skip(1)).all(|((_, end), (start, _))| end < start));
        }
    }
}
