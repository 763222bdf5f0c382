//! Where entries must not lead: outside the file, and into metadata, also into what has become metadata since they were
//! read. Counts of a broken image may call a cluster free that an entry leads to.

use super::{Pin, Tables, mark};
use crate::error::IoError;
use crate::node::qcow2::entry::Entry;
use crate::reactor::Handle;
use std::ops::Range;

impl Tables {
    /// The bytes of the file that an entry leads to, unless they are in an external data file: no metadata is there, and
    /// it grows with what is written.
    fn place(&self, word: u64) -> Option<Range<u64>> {
        let (host, len) = match self.geometry.decode(word) {
            Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } => (host, self.geometry.cluster()),
            Entry::Compressed { host, len } => (host, len),
            Entry::Unallocated | Entry::Zero { host: None, .. } | Entry::Invalid => return None,
        };
        (!self.geometry.external_data).then_some(host..host + len)
    }

    /// Whether an entry leads nowhere but to a guest's cluster inside the file. The last cluster may end past the end.
    pub(super) fn is_sound(&self, word: u64) -> bool {
        let inside = |place: Range<u64>| place.start < self.metadata.end() && !self.metadata.overlaps(place);
        self.geometry.decode(word) != Entry::Invalid && self.place(word).is_none_or(inside)
    }

    /// Whether an entry leads nowhere in an external data file but to where the guest's cluster is: at the guest's offset.
    pub(super) fn is_in_place(&self, word: u64, guest: u64) -> bool {
        match self.geometry.decode(word) {
            Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } => {
                !self.geometry.external_data || host == guest
            }
            _ => true,
        }
    }

    /// Metadata may have been made of clusters that nobody had, it was thought: no entry in memory leads there from now
    /// on. Those that come are checked when they come.
    pub fn forbid_new_metadata(&self) {
        let new = self.metadata.take_new();
        if new.is_empty() {
            return;
        }
        for index in self.cache.resident() {
            if let Some(pin) = self.cache.pin(index) {
                let is_new = |place: &Range<u64>| new.iter().any(|new| place.start < new.end && new.start < place.end);
                // What was made may be gone again.
                self.forbid_in(&pin, |place| is_new(&place) && self.metadata.overlaps(place));
            }
        }
    }

    /// Metadata has been found that nobody knew of: no entry in memory leads there from now on.
    pub fn forbid_metadata(&self) {
        for pin in self.cache.resident().into_iter().filter_map(|index| self.cache.pin(index)) {
            self.forbid_in(&pin, |place| self.metadata.overlaps(place));
        }
    }

    /// Marks the entries of a table that lead where they must not; the table does not count as changed for that.
    pub(super) fn forbid_in(&self, pin: &Pin<'_>, is_forbidden: impl Fn(Range<u64>) -> bool) {
        for index in (0..self.geometry.l2_words()).step_by(self.geometry.entry_words()) {
            let word = pin.word(index);
            if self.place(word).is_some_and(&is_forbidden) {
                // Whoever changes it at the same time knows where it leads.
                pin.exchange(index, word, mark::l2(word));
            }
        }
    }

    /// The entry of a guest offset as it is to stand in the file, valid or not; `None` without a table.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] if the L1 entry is invalid.
    pub async fn word(&self, io: &Handle, offset: u64) -> Result<Option<u64>, IoError> {
        let index = self.geometry.l1_index(offset);
        let entry = self.geometry.l2_index(offset) * self.geometry.entry_words();
        if let Some(pin) = self.load(io, index).await? {
            return Ok(Some(Self::unmarked(pin.word(entry))));
        }
        let words = self.read_table(io, index).await?;
        Ok(words.and_then(|words| words.get(entry).copied()).map(Self::unmarked))
    }

    /// An L2 entry as it is to stand in the file.
    pub fn unmarked(word: u64) -> u64 {
        mark::without_l2(word)
    }
}
