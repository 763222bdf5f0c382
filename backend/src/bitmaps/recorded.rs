//! Of which part of a node's history a bitmap has every change.
//!
//! A node's history is counted in generations: one begins with each point in time. Knows no bits. What is said here is
//! never more than what a bitmap has: it may mark other things besides.

use std::ops::Range;

/// The end of what goes on.
pub(super) const NOW: u64 = u64::MAX;

/// Pieces of a history that are kept apart; with more the oldest are given up.
const SPANS_MAX: usize = 64;

/// Generations whose changes are all marked, as spans in order that do not touch, and the oldest generation of which
/// anything may be marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    spans: Vec<Range<u64>>,
    oldest: u64,
}

impl Recorded {
    /// Of a bitmap that marks nothing.
    pub(super) fn nothing() -> Self {
        Self { spans: Vec::new(), oldest: NOW }
    }

    /// Of an empty bitmap that records from a generation on, if it is `enabled`.
    pub(super) fn from(generation: u64, enabled: bool) -> Self {
        let mut recorded = Self::nothing();
        recorded.go_on(generation, enabled);
        recorded
    }

    /// Of a bitmap that comes with marks from before the first generation.
    pub(super) fn inherited(enabled: bool) -> Self {
        let mut recorded = Self::from(0, enabled);
        recorded.add_foreign();
        recorded
    }

    /// It also records from a generation on, if it is `enabled`.
    pub(super) fn go_on(&mut self, generation: u64, enabled: bool) {
        if enabled {
            self.oldest = self.oldest.min(generation);
            self.add(generation..NOW);
        }
    }

    /// It also marks what nobody knows the time of.
    pub(super) fn add_foreign(&mut self) {
        self.oldest = 0;
    }

    /// It also has what another one has.
    pub(super) fn merge(&mut self, other: &Self) {
        self.oldest = self.oldest.min(other.oldest);
        other.spans.iter().for_each(|span| self.add(span.clone()));
    }

    /// What there was before a generation.
    pub(super) fn until(&self, generation: u64) -> Self {
        let cut = self.spans.iter().map(|span| span.start..span.end.min(generation));
        Self { spans: cut.filter(|span| !span.is_empty()).collect(), oldest: self.oldest }
    }

    /// What counts from a generation on, because all that was before is void.
    pub(super) fn after(&self, generation: u64) -> Self {
        let cut = self.spans.iter().map(|span| span.start.max(generation)..span.end);
        Self { spans: cut.filter(|span| !span.is_empty()).collect(), oldest: self.oldest }
    }

    /// The oldest generation of which it may mark anything.
    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The generation since which it has all until now.
    pub(super) fn since(&self) -> Option<u64> {
        self.spans.last().filter(|span| span.end == NOW).map(|span| span.start)
    }

    /// Where the span ends that has a generation.
    pub(super) fn end_of(&self, generation: u64) -> Option<u64> {
        self.spans.iter().find(|span| span.contains(&generation)).map(|span| span.end)
    }

    /// The span that ended last before or at a generation.
    pub(super) fn ended_by(&self, generation: u64) -> Option<&Range<u64>> {
        self.spans.iter().rfind(|span| span.end <= generation)
    }

    /// What it has and `other` does not.
    pub(super) fn without(&self, other: &Self) -> Vec<Range<u64>> {
        let mut left = Vec::new();
        for span in &self.spans {
            let mut start = span.start;
            for taken in other.spans.iter().filter(|taken| taken.end > span.start && taken.start < span.end) {
                left.push(start..taken.start.max(start));
                start = taken.end.min(span.end);
            }
            left.push(start..span.end);
        }
        left.retain(|span| !span.is_empty());
        left
    }

    fn add(&mut self, mut new: Range<u64>) {
        self.spans.retain(|span| {
            let touches = span.start <= new.end && new.start <= span.end;
            if touches {
                new = span.start.min(new.start)..span.end.max(new.end);
            }
            !touches
        });
        let at = self.spans.partition_point(|span| span.start < new.start);
        self.spans.insert(at, new);
        let more = self.spans.len().saturating_sub(SPANS_MAX);
        self.spans.drain(..more);
    }
}
