//! What has changed on a node since a point in time, out of the bitmaps that it has; or why none of them knows.
//!
//! An answer has every change since then, and maybe more: whole blocks, and all that is marked in the bitmaps it is made
//! of. It is right if nothing was unsettled when it was made.

use super::change_id::ChangeId;
use super::history::{Cause, History, Loss};
use super::recorded::{NOW, Recorded};
use super::{BitmapError, Record, Tracking};
use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use tidemark_cbt::Bitmap;

/// Runs of marked blocks that are looked at for one page of extents.
const RUNS_MAX: u32 = 1 << 20;

/// What has changed.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The last point in time that it reaches to, if there has been any.
    pub point: Option<ChangeId>,
    /// The bitmaps that it is made of.
    pub bitmaps: Vec<String>,
    bits: Vec<Arc<Bitmap>>,
    /// Everything from here to the end has changed, because the node was not longer at some time.
    shortest: u64,
    len: u64,
}

/// Some of what has changed, in order, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Bytes that have changed; no extent touches another one.
    pub extents: Vec<Range<u64>>,
    /// Where the next page begins, if there may be more.
    pub next: Option<u64>,
}

/// Why nobody knows what has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKnown {
    /// The name was given by another node, or in another life of this one.
    #[error("Change ID '{0}' is not of this node, or of before it was opened")]
    OfAnother(ChangeId),
    /// The node has had no such point yet.
    #[error("Change ID '{0}' is of no point in time that there has been")]
    NotYet(ChangeId),
    /// No bitmap has what changed at some time since then.
    #[error("No bitmap has all that was changed since '{since}': {why}")]
    Gap {
        /// What was asked for.
        since: ChangeId,
        /// What came between.
        why: Gap,
    },
    /// A bitmap that cannot be read.
    #[error(transparent)]
    Bitmap(#[from] BitmapError),
}

/// A time in which nothing recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// A bitmap that had it lost it.
    Lost {
        /// Its name.
        bitmap: String,
        /// How.
        cause: Cause,
        /// When.
        at: Option<ChangeId>,
    },
    /// A bitmap did not record then.
    Disabled {
        /// Its name.
        bitmap: String,
        /// Since when; `None` if it never did since the node was opened.
        since: Option<ChangeId>,
        /// Until when; `None` if it does not record now.
        until: Option<ChangeId>,
    },
    /// A bitmap that was not stored properly.
    Inconsistent {
        /// Its name.
        bitmap: String,
    },
    /// A bitmap came later.
    Later {
        /// Its name.
        bitmap: String,
        /// Since when it records.
        since: Option<ChangeId>,
    },
    /// There is no bitmap.
    NoBitmap,
}

impl fmt::Display for Gap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |id: &Option<ChangeId>| id.map_or("the opening of the node".to_owned(), |id| format!("'{id}'"));
        match self {
            Self::Lost { bitmap, cause, at: when } => {
                let when = at(when);
                match cause {
                    Cause::Removed => write!(out, "bitmap '{bitmap}', which had it, was removed at {when}"),
                    Cause::Cleared => write!(out, "bitmap '{bitmap}', which had it, was cleared at {when}"),
                    Cause::UsedUp => {
                        write!(out, "bitmap '{bitmap}', which had it, was used up by a backup that began at {when}")
                    }
                    Cause::Replaced => {
                        write!(out, "bitmap '{bitmap}' had it until what is below the node was replaced at {when}")
                    }
                }
            }
            Self::Disabled { bitmap, since: None, .. } => write!(out, "bitmap '{bitmap}' is disabled"),
            Self::Disabled { bitmap, since, until: None } => {
                write!(out, "bitmap '{bitmap}' has been disabled since {}", at(since))
            }
            Self::Disabled { bitmap, since, until } => {
                write!(out, "bitmap '{bitmap}' was disabled from {} to {}", at(since), at(until))
            }
            Self::Inconsistent { bitmap } => write!(out, "bitmap '{bitmap}' is inconsistent"),
            Self::Later { bitmap, since } => write!(out, "bitmap '{bitmap}' records only since {}", at(since)),
            Self::NoBitmap => out.write_str("the node has no bitmap"),
        }
    }
}

/// Something that can answer: a bitmap, or what records while somebody uses it.
struct Part<'a> {
    name: &'a str,
    bits: &'a Arc<Bitmap>,
    recorded: &'a Recorded,
}

impl Record {
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let own = Part { name: &self.name, bits: &self.bits, recorded: &self.recorded };
        let successor = self.successor.as_ref();
        let more = successor.map(|next| Part { name: &self.name, bits: &next.bits, recorded: &next.recorded });
        std::iter::once(own).chain(more)
    }

    /// What it has together with what records while somebody uses it.
    pub(super) fn all_recorded(&self) -> Recorded {
        let mut all = self.recorded.clone();
        self.successor.iter().for_each(|successor| all.merge(&successor.recorded));
        all
    }
}

impl Tracking {
    /// What has changed since a point in time on the node, which has `len` bytes.
    ///
    /// # Errors
    /// No bitmaps have it; then it is said what became of those that had.
    pub fn changed_since(&self, since: ChangeId, len: u64) -> Result<Changed, NotKnown> {
        let (records, history) = (self.lock(), self.history());
        if since.life != history.life {
            return Err(NotKnown::OfAnother(since));
        }
        if since.generation > history.generation || since.generation == 0 {
            return Err(NotKnown::NotYet(since));
        }
        let parts: Vec<_> = records.iter().flat_map(Record::parts).collect();
        let chosen = choose(&parts, since.generation)
            .map_err(|generation| NotKnown::Gap { since, why: explain(&records, &history, generation) })?;
        let shortest = history.shortest_since(since.generation).unwrap_or(len);
        Ok(Changed::of(&chosen, history.id(history.generation), shortest, len))
    }

    /// What a bitmap marks, whoever uses it, on the node, which has `len` bytes.
    ///
    /// # Errors
    /// There is none of that name, or it is inconsistent.
    pub fn marked_in(&self, name: &str, len: u64) -> Result<Changed, NotKnown> {
        self.readable(name)?;
        let (records, history) = (self.lock(), self.history());
        let parts: Vec<_> = records.iter().filter(|record| record.name == name).flat_map(Record::parts).collect();
        let parts: Vec<_> = parts.iter().collect();
        Ok(Changed::of(&parts, history.id(history.generation), len, len))
    }

    /// Whether it was this node that gave a name, since it was opened.
    pub fn gave(&self, id: ChangeId) -> bool {
        self.history().life == id.life
    }

    /// The persistent bitmaps that have recorded all along since the node was opened and maybe before.
    pub fn kept(&self) -> Vec<String> {
        let records = self.lock();
        let kept = records.iter().filter(|record| record.persistent && record.all_recorded().since() == Some(0));
        kept.map(|record| record.name.clone()).collect()
    }
}

/// Parts that together have all since a generation, with little else if possible: those that have nothing of before
/// come first, of these the finer ones. If there are none, the first generation that none has.
fn choose<'a>(parts: &'a [Part<'a>], since: u64) -> Result<Vec<&'a Part<'a>>, u64> {
    let (mut chosen, mut at): (Vec<&Part<'_>>, _) = (Vec::new(), since);
    while at != NOW {
        let able = parts.iter().filter_map(|part| Some((part.recorded.end_of(at)?, part)));
        let best =
            able.max_by_key(|(end, part)| (part.recorded.oldest().min(since), Reverse(part.bits.granularity()), *end));
        let (end, part) = best.ok_or(at)?;
        if !chosen.iter().any(|other| std::ptr::eq(*other, part)) {
            chosen.push(part);
        }
        at = end;
    }
    Ok(chosen)
}

/// Why no bitmap has what was changed in a generation.
fn explain(records: &[Record], history: &History, generation: u64) -> Gap {
    if let Some(Loss { bitmap, cause, generation, .. }) = history.loss_of(generation) {
        return Gap::Lost { bitmap: bitmap.clone(), cause: *cause, at: history.id(*generation) };
    }
    let sound = records.iter().filter(|record| !record.inconsistent);
    let all: Vec<_> = sound.map(|record| (&record.name, record.all_recorded())).collect();
    let stopped = all.iter().filter_map(|(name, recorded)| Some((recorded.ended_by(generation)?.end, name, recorded)));
    if let Some((end, bitmap, recorded)) = stopped.max_by_key(|(end, ..)| *end) {
        let until = recorded.since().and_then(|since| history.id(since));
        return Gap::Disabled { bitmap: (*bitmap).clone(), since: history.id(end), until };
    }
    if let Some(record) = records.iter().find(|record| record.inconsistent) {
        return Gap::Inconsistent { bitmap: record.name.clone() };
    }
    let begun = all.iter().filter_map(|(name, recorded)| Some((recorded.since()?, name)));
    if let Some((since, bitmap)) = begun.min_by_key(|(since, _)| *since) {
        return Gap::Later { bitmap: (*bitmap).clone(), since: history.id(since) };
    }
    match all.first() {
        Some((bitmap, _)) => Gap::Disabled { bitmap: (*bitmap).clone(), since: None, until: None },
        None => Gap::NoBitmap,
    }
}

impl Changed {
    fn of(parts: &[&Part<'_>], point: Option<ChangeId>, shortest: u64, len: u64) -> Self {
        let bits: Vec<_> = parts.iter().map(|part| part.bits.clone()).collect();
        let mut bitmaps: Vec<_> = parts.iter().map(|part| part.name.to_owned()).collect();
        bitmaps.dedup();
        // What a bitmap does not reach it cannot know.
        let shortest = bits.iter().map(|bits| bits.len()).fold(shortest, u64::min);
        Self { point, bitmaps, bits, shortest, len }
    }

    /// The first `limit` extents at or after `from`. Fewer if there are too many runs to look at: then there is a next
    /// page as well.
    pub fn page(&self, from: u64, limit: usize) -> Page {
        let mut page = Page { extents: Vec::new(), next: Some(from) };
        let mut looks = RUNS_MAX;
        while let Some(at) = page.next.filter(|_| looks > 0) {
            let extent = self.extent(at, &mut looks);
            if page.extents.len() == limit {
                page.next = extent.map(|extent| extent.start);
                break;
            }
            page.next = extent.as_ref().map(|extent| extent.end).filter(|end| *end < self.len);
            page.extents.extend(extent);
        }
        page
    }

    /// The next extent, cut off at `from`, and when it has been looked often enough.
    fn extent(&self, from: u64, looks: &mut u32) -> Option<Range<u64>> {
        let first = self.runs(from, looks).min_by_key(|run| run.start)?;
        let (start, mut end) = (first.start, first.end);
        while end < self.len && *looks > 0 {
            let longer = self.runs(end, looks).filter(|run| run.start == end).map(|run| run.end).max();
            let Some(longer) = longer else { break };
            end = longer;
        }
        Some(start..end)
    }

    /// The next run of each bitmap, cut off at `from`, and what was beyond the end once.
    fn runs(&self, from: u64, looks: &mut u32) -> impl Iterator<Item = Range<u64>> {
        *looks = looks.saturating_sub(1);
        let beyond = Some(self.shortest.max(from)..self.len).filter(|run| !run.is_empty());
        let runs = self.bits.iter().filter_map(move |bits| bits.next_marked(from));
        runs.map(|run| run.start..run.end.min(self.len)).filter(|run| !run.is_empty()).chain(beyond)
    }
}
