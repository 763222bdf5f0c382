//! What a node remembers of its points in time: how many there were, which bitmaps lost what, how short it was meanwhile.
//!
//! Bounded: of what is too old to be remembered is said that nothing has it, or that more has changed than did.

use super::change_id::{ChangeId, Life};
use super::recorded::Recorded;
use std::collections::VecDeque;
use std::ops::Range;

/// Losses that are remembered.
const LOSSES_MAX: usize = 64;
/// Lengths that are remembered.
const LENGTHS_MAX: usize = 64;

/// Why a bitmap does not have any more what it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was removed.
    Removed,
    /// It was cleared.
    Cleared,
    /// A backup has used it up: it begins where the backup did.
    UsedUp,
    /// What is below the node was replaced, so that the disk may have changed anywhere.
    Replaced,
}

/// A bitmap that lost something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) bitmap: String,
    lost: Vec<Range<u64>>,
    pub(super) cause: Cause,
    /// When.
    pub(super) generation: u64,
}

/// The points in time of a node.
#[derive(Default)]
pub(super) struct History {
    pub(super) life: Life,
    /// The number of points there were; the last one's is this.
    pub(super) generation: u64,
    /// Newest last.
    losses: VecDeque<Loss>,
    /// Generations and how short the node was in each, both rising.
    lengths: Vec<(u64, u64)>,
}

impl History {
    /// The name of a point in time; the opening has none.
    pub(super) fn id(&self, generation: u64) -> Option<ChangeId> {
        (generation > 0).then_some(ChangeId { life: self.life, generation })
    }

    /// A bitmap had `old` and has `new`, for this reason, since a point in time.
    pub(super) fn lose(&mut self, bitmap: &str, old: &Recorded, new: &Recorded, cause: Cause, generation: u64) {
        let lost = old.without(new);
        if lost.is_empty() {
            return;
        }
        if self.losses.len() == LOSSES_MAX {
            self.losses.pop_front();
        }
        self.losses.push_back(Loss { bitmap: bitmap.to_owned(), lost, cause, generation });
    }

    /// The last loss of what was recorded in a generation.
    pub(super) fn loss_of(&self, generation: u64) -> Option<&Loss> {
        self.losses.iter().rfind(|loss| loss.lost.iter().any(|span| span.contains(&generation)))
    }

    /// The node had this length for a moment, or has it from now on.
    pub(super) fn had_length(&mut self, len: u64) {
        // Whoever asks about earlier generations hears of this one, too.
        self.lengths.retain(|(_, earlier)| *earlier < len);
        self.lengths.push((self.generation, len));
        if self.lengths.len() > LENGTHS_MAX {
            let (_, shorter) = self.lengths.remove(0);
            self.lengths.iter_mut().take(1).for_each(|(_, next)| *next = shorter);
        }
    }

    /// How short the node has been since a point in time; `None` if its length has not changed.
    pub(super) fn shortest_since(&self, generation: u64) -> Option<u64> {
        self.lengths.iter().find(|(at, _)| *at >= generation).map(|(_, len)| *len)
    }
}
