//! Where free clusters are: the first that will do, from the beginning of the file.
//!
//! Does no I/O: says what it has to see next. Regions without a block are free as a whole, but the block they need then
//! takes a cluster; new blocks come right before the clusters they were needed for, so every plan describes itself.

use super::state::{Fault, Place, State};
use crate::error::IoError;
use std::ops::Range;

/// How many clusters are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    /// Fewer will not do.
    pub(super) least: u64,
    /// More are not needed.
    pub(super) most: u64,
}

/// Clusters to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The first.
    pub(super) start: u64,
    /// How many from there on are for new refcount blocks.
    pub(super) blocks: u64,
    /// How many after these are for the caller.
    pub(super) clusters: u64,
}

impl Plan {
    pub(super) fn all(self) -> Range<u64> {
        self.start..self.start + self.blocks + self.clusters
    }

    pub(super) fn for_caller(self) -> Range<u64> {
        self.start + self.blocks..self.all().end
    }
}

/// What a search does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These clusters are free, and the blocks that count them in memory.
    Found(Plan),
    /// It has to see the block of this region.
    Load(usize),
    /// It has come to a region that the table has no entry for.
    PastTable(usize),
}

/// A search under way. Nobody else may take clusters meanwhile.
pub(super) struct Search {
    want: Want,
    /// Regions the table has entries for, or will have.
    regions: usize,
    /// Free clusters in a row.
    span: Range<u64>,
    /// Where to look next.
    at: u64,
}

impl Search {
    /// Begins at the first cluster that can be free.
    pub(super) fn new(state: &State, want: Want, regions: usize) -> Self {
        let at = state.first as u64 * state.per_region();
        Self { want, regions, span: at..at, at }
    }

    /// Regions whose blocks have to stay in memory.
    pub(super) fn keep(&self, state: &State) -> Range<usize> {
        state.locate(self.span.start).0..state.locate(self.at).0 + 1
    }

    /// Goes on until something is found or needed.
    ///
    /// # Errors
    /// Where the table is broken.
    pub(super) fn step(&mut self, state: &mut State) -> Result<Step, IoError> {
        loop {
            if let Some(plan) = self.plan(state) {
                return Ok(Step::Found(plan));
            }
            let region = state.locate(self.at).0;
            if region >= self.regions {
                return Ok(Step::PastTable(region));
            }
            match state.place(region) {
                Place::Broken => return Err(state.broken_block(region)),
                Place::File(_) => return Ok(Step::Load(region)),
                Place::Nowhere | Place::Here => self.look(state, region)?,
            }
        }
    }

    /// Looks at one region up to where its next free clusters end, or the region itself.
    fn look(&mut self, state: &mut State, region: usize) -> Result<(), IoError> {
        let base = region as u64 * state.per_region();
        let end = base + state.per_region();
        let lowest = base + state.lowest(region);
        let from = self.at.max(lowest);
        let Some(start) = first_free(state, region, from..end)? else {
            if self.at <= lowest {
                state.set_lowest(region, state.per_region());
            }
            self.at = end;
            return Ok(());
        };
        if self.at <= lowest {
            state.set_lowest(region, start - base);
        }
        // Not further than needed: the blocks for one region more than these clusters can be in come on top.
        let limit = end.min(start.saturating_add(self.want.most).saturating_add(1));
        let stop = first_taken(state, region, start..limit);
        let begin = if self.span.end == start { self.span.start } else { start };
        self.span = begin..stop;
        self.at = stop;
        Ok(())
    }

    /// What to take of the free clusters, if they are enough.
    fn plan(&self, state: &State) -> Option<Plan> {
        let (start, free) = (self.span.start, self.span.end - self.span.start);
        let mut needed = self.want.least;
        loop {
            if free < needed {
                return None;
            }
            let regions = state.locate(start).0..state.locate(start + needed - 1).0 + 1;
            let blocks = regions.clone().filter(|region| state.place(*region) == Place::Nowhere).count() as u64;
            if blocks + self.want.least == needed {
                let end = self.span.end.min(regions.end as u64 * state.per_region());
                let clusters = (end - start - blocks).min(self.want.most);
                return Some(Plan { start, blocks, clusters });
            }
            needed = blocks + self.want.least;
        }
    }
}

/// The first of these clusters of one region that can be taken.
fn first_free(state: &mut State, region: usize, mut clusters: Range<u64>) -> Result<Option<u64>, IoError> {
    loop {
        let Some(free) = state.find(region, clusters.clone(), |count| count == 0) else { return Ok(None) };
        match state.reserved.end_of(free) {
            None if state.protected.end_of(free).is_some() => {
                state.fault = Some(Fault::MetadataFree(free << state.geometry.cluster_bits));
                return Err(IoError::Io);
            }
            None => return Ok(Some(free)),
            Some(end) => clusters.start = end.min(clusters.end),
        }
    }
}

/// The first of these clusters of one region that cannot be taken, or their end.
fn first_taken(state: &mut State, region: usize, clusters: Range<u64>) -> u64 {
    let held = [&state.reserved, &state.protected].map(|held| held.first_from(clusters.start).unwrap_or(clusters.end));
    let reserved = clusters.end.min(held[0]).min(held[1]);
    state.find(region, clusters.start..reserved, |count| count != 0).unwrap_or(reserved)
}
