//! What a guest has written, in order: whether an image is what its disk was at one moment.
//!
//! A write takes effect between its submission and its completion. Knows no device; the clock counts what happens.

use std::collections::HashMap;
use std::ops::Range;

/// One write.
#[derive(Clone, Copy)]
struct Write {
    block: usize,
    value: u64,
    submitted: u64,
    /// When the guest was told that it is done.
    completed: Option<u64>,
}

/// A guest's writes from when it was begun.
#[derive(Default)]
pub struct Record {
    clock: u64,
    writes: Vec<Write>,
    /// The write under way to a block.
    under_way: HashMap<usize, usize>,
}

impl Record {
    /// A block is being written; nothing else is under way to it.
    pub fn submit(&mut self, block: usize, value: u64) {
        self.clock += 1;
        self.under_way.insert(block, self.writes.len());
        self.writes.push(Write { block, value, submitted: self.clock, completed: None });
    }

    /// The write to this block is done.
    pub fn complete(&mut self, block: usize) {
        self.clock += 1;
        if let Some(write) = self.under_way.remove(&block) {
            self.writes[write].completed = Some(self.clock);
        }
    }

    /// When all blocks had these values at the same time, as closely as can be told. A value that was never written is
    /// taken for what was there before.
    ///
    /// # Errors
    /// Never.
    pub fn moment(&self, values: &[u64]) -> Result<Range<u64>, String> {
        // Not before everything that is there was submitted, not after anything that is not there was completed.
        let (mut begin, mut end) = (0, u64::MAX);
        for (block, value) in values.iter().enumerate() {
            let mut found = self.writes.iter().filter(|write| write.block == block);
            if let Some(there) = found.clone().find(|write| write.value == *value) {
                begin = begin.max(there.submitted);
                found.find(|write| write.submitted == there.submitted);
            }
            if let Some(completed) = found.next().and_then(|next| next.completed) {
                end = end.min(completed);
            }
        }
        if begin < end {
            Ok(begin..end)
        } else {
            Err(format!("one block is of {begin} or later, another of before {end}"))
        }
    }

    /// Whether a block may have been written between two moments.
    pub fn may_have_changed(&self, block: usize, from: &Range<u64>, to: &Range<u64>) -> bool {
        let mut writes = self.writes.iter().filter(|write| write.block == block);
        writes.any(|write| write.submitted < to.end && write.completed.is_none_or(|done| done > from.start))
    }
}

#[test]
fn a_record_tells_a_moment_from_a_mixture() {
    let mut record = Record::default();
    for (block, value) in [(0, 1), (1, 2), (0, 3), (1, 4)] {
        record.submit(block, value);
        record.complete(block);
    }
    record.submit(1, 5);
    for values in [[0, 0], [1, 0], [1, 2], [3, 2], [3, 4], [3, 5]] {
        assert!(record.moment(&values).is_ok(), "{values:?}");
    }
    for values in [[0, 2], [3, 0], [1, 4], [0, 4], [1, 5]] {
        assert!(record.moment(&values).is_err(), "{values:?}");
    }
    let (between, last) = (record.moment(&[3, 2]).unwrap(), record.moment(&[3, 5]).unwrap());
    assert!(!record.may_have_changed(0, &last, &last) && record.may_have_changed(1, &between, &last));
}
