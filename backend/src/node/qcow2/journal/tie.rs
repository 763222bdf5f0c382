//! What ties a journal to its image: an autoclear bit, and an extension with the journal's number.
//!
//! Another program that writes to the image clears the bit first, because it does not know it: then the journal is old
//! and never believed.

use crate::node::qcow2::header::{FEATURE_NAMES, Header, bits, journal_name};

/// "Tdmk": an extension of ours.
const EXTENSION: u32 = 0x5464_6d6b;

impl Header {
    /// The number of the journal that goes with the image as it is.
    pub(in crate::node::qcow2) fn journal(&self) -> Option<u128> {
        self.any_journal().filter(|_| self.autoclear & bits::AUTOCLEAR_JOURNAL != 0)
    }

    /// The number of a journal that goes with the image, or went.
    pub(in crate::node::qcow2) fn any_journal(&self) -> Option<u128> {
        let data = self.extensions.iter().find(|(kind, _)| *kind == EXTENSION).map(|(_, data)| data)?;
        data.as_slice().try_into().ok().map(u128::from_be_bytes)
    }

    /// Says that a journal with this number goes with the image.
    pub(in crate::node::qcow2) fn set_journal(&mut self, id: u128) {
        self.forget_journal();
        self.autoclear |= bits::AUTOCLEAR_JOURNAL;
        self.extensions.push((EXTENSION, id.to_be_bytes().to_vec()));
        self.name_feature();
    }

    /// Says that none does.
    pub(in crate::node::qcow2) fn forget_journal(&mut self) {
        self.autoclear &= !bits::AUTOCLEAR_JOURNAL;
        self.extensions.retain(|(kind, _)| *kind != EXTENSION);
        self.unname_feature();
    }

    /// The table of features names the bit, if there is a table.
    fn name_feature(&mut self) {
        let entry = journal_name();
        self.feature_names().into_iter().for_each(|table| table.extend(&entry));
    }

    fn unname_feature(&mut self) {
        let entry = journal_name();
        if let Some(table) = self.feature_names() {
            *table = table.chunks(entry.len()).filter(|bytes| *bytes != entry).collect::<Vec<_>>().concat();
        }
    }

    fn feature_names(&mut self) -> Option<&mut Vec<u8>> {
        self.extensions.iter_mut().find(|(kind, _)| *kind == FEATURE_NAMES).map(|(_, table)| table)
    }
}
