//! A counter that the guests write from disk to disk: each entry only after the one before has ended well on the other.
//!
//! So whoever has an entry on one disk and not the one before it on the other has no single moment.

use crate::oracle::Tag;

/// The entries so far, by the numbers of the writes that made them.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The number of the entry each write was to make.
    writes: Vec<(Tag, usize)>,
    /// Entries that ended well.
    entries: usize,
    under_way: bool,
}

impl Ledger {
    /// The disk that the next entry goes to, unless one is under way.
    pub fn next_disk(&self) -> Option<usize> {
        (!self.under_way).then_some(self.entries % 2)
    }

    /// The write `tag` is to make the next entry.
    pub fn begin(&mut self, tag: Tag) {
        self.writes.push((tag, self.entries + 1));
        self.under_way = true;
    }

    /// A write has ended; if it was not one of the ledger's, nothing happens. One that failed is made again.
    pub fn end(&mut self, tag: Tag, well: bool) {
        if self.writes.last().is_some_and(|(last, _)| *last == tag) {
            self.under_way = false;
            self.entries += usize::from(well);
        }
    }

    /// Judges what the two disks have at one moment.
    pub fn check(&self, tags: [Tag; 2]) -> Result<(), String> {
        let entry = |tag| self.writes.iter().find(|(write, _)| *write == tag).map_or(0, |(_, entry)| *entry);
        let [first, second] = tags.map(entry);
        if first.abs_diff(second) <= 1 {
            return Ok(());
        }
        Err(format!("entry {first} is on the first disk and entry {second} on the second"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_waits_for_the_one_before_and_is_made_again_if_it_fails() {
        let mut ledger = Ledger::default();
        ledger.begin(10);
        assert_eq!(ledger.next_disk(), None);
        ledger.end(99, true);
        assert_eq!(ledger.next_disk(), None);
        ledger.end(10, false);
        assert_eq!(ledger.next_disk(), Some(0));
        ledger.begin(11);
        ledger.end(11, true);
        assert_eq!(ledger.next_disk(), Some(1));
    }

    #[test]
    fn an_entry_without_the_one_before_it_is_no_moment() {
        let mut ledger = Ledger::default();
        for tag in 1..=4 {
            ledger.begin(tag);
            ledger.end(tag, true);
        }
        let legal =
            [[0, 0], [1, 0], [1, 2], [3, 2], [3, 4], [0, 2], [3, 0], [1, 4]].map(|tags| ledger.check(tags).is_ok());
        assert_eq!(legal, [true, true, true, true, true, false, false, false]);
    }
}
