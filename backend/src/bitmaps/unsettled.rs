//! How many bitmaps of a node do not have all yet that is theirs: whoever stores them waits until none is.

use std::sync::Arc;

/// A count.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled(Arc<()>);

/// One that is counted, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Counted(#[expect(dead_code, reason = "counts by being there")] Arc<()>);

impl Unsettled {
    /// Counts one more, until it is dropped.
    pub(super) fn count(&self) -> Counted {
        Counted(self.0.clone())
    }

    /// Whether one is counted.
    pub(super) fn is_any(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}
