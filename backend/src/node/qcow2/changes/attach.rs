//! The journal of an image from its opening, or its first persistent bitmap, to its close.

use super::{ChangesEvent, CrashSafe, locked};
use crate::error::IoError;
use crate::node::changes::{ChangeJournal, Medium};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::journal::Journal;
use crate::node::qcow2::journal::tie::{self, Changes as Where, Tie};
use crate::node::qcow2::open::OpenError;
use crate::node::qcow2::own_header::ChangeError;
use crate::reactor::Handle;
use tidemark_cbt::journal::hash;

impl Image {
    /// What outlives a crash besides what the image says.
    pub fn changes(&self) -> &super::Changes {
        &self.changes
    }

    /// Begins a journal that the image will name by `number`, before it does. What was recovered is stored first.
    ///
    /// # Errors
    /// There is none, and the user asked for one; what was recovered cannot be stored.
    pub(in crate::node::qcow2) async fn begin_changes(
        &self,
        io: &Handle,
        number: u64,
        tables: Option<&Journal>,
    ) -> Result<Option<Where>, OpenError> {
        let recovered = locked(&self.changes.recovered).clone();
        // Bitmaps that were not in use are stored already, and mark no more than they have to.
        if recovered.as_ref().is_some_and(|recovered| !recovered.bitmaps().is_empty()) {
            self.save_loaded(io).await.map_err(|error| OpenError::Changes(error.to_string()))?;
        }
        if !self.bitmaps.has_any() {
            return Ok(None);
        }
        let previous = recovered.map(|recovered| recovered.number);
        self.try_begin_changes(io, number, previous, tables).await
    }

    /// The image names its journal.
    pub(in crate::node::qcow2) async fn changes_named(&self, io: &Handle) {
        if let Some(journal) = self.changes.journal()
            && let Err(error) = journal.named(io).await
        {
            self.give_up_changes(io, error).await;
        }
    }

    async fn try_begin_changes(
        &self,
        io: &Handle,
        number: u64,
        previous: Option<u64>,
        tables: Option<&Journal>,
    ) -> Result<Option<Where>, OpenError> {
        let begun = match self.changes.medium(tables, self.header().tie().changes) {
            Ok(None) => return Ok(None),
            Ok(Some(medium)) => self.changes_on(io, medium, number, previous).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match begun {
            Ok(place) => Ok(Some(place)),
            Err(error) if self.changes.is_demanded() => Err(OpenError::Changes(error)),
            Err(error) => {
                let below = self.file();
                let file = below.name();
                tracing::warn!(file, "bitmaps of an image will not survive a crash: no change journal: {error}");
                Ok(None)
            }
        }
    }

    async fn changes_on(
        &self,
        io: &Handle,
        medium: Medium,
        number: u64,
        previous: Option<u64>,
    ) -> Result<Where, IoError> {
        let place = if medium.survives_power() { Where::File } else { Where::Shared };
        let lost = self.bitmaps.lost().iter().map(|name| hash(name)).collect();
        let journal = ChangeJournal::begin(io, medium, number, previous, self.length(), lost).await?;
        self.changes.set_journal(Some(journal));
        Ok(place)
    }

    /// Begins a journal for an open image that gets a persistent bitmap; nothing if it has one or is to have none. The
    /// next hold has writes covered, and then [`Image::save_bitmaps`] has the image name it.
    ///
    /// # Errors
    /// There is none, and the user asked for one.
    pub async fn ensure_changes(&self, io: &Handle) -> Result<(), OpenError> {
        let _turn = self.changes.turn.lock(0..1).await;
        let none = self.is_read_only() || self.header().version < 3 || self.changes.crash_safe() == CrashSafe::Off;
        if none || self.changes.journal().is_some() {
            return Ok(());
        }
        let now = self.header().tie();
        // Without journals so far there is no number yet.
        let number = if now.tables { now.number } else { tie::number() };
        *locked(&self.changes.unnamed) =
            self.try_begin_changes(io, number, None, self.journal.load_full().as_deref()).await?;
        Ok(())
    }

    /// Has the image name a journal that has been begun for it, when all writes are covered and what was recorded before
    /// is stored.
    pub(super) async fn name_changes(&self, io: &Handle, journal: &ChangeJournal) -> Result<(), ChangeError> {
        let Some(changes) = *locked(&self.changes.unnamed) else { return Ok(()) };
        let number = journal.number();
        self.change_header(io, |header| {
            let now = header.tie();
            header.set_tie(Tie { number, changes: Some(changes), ..now });
        })
        .await?;
        locked(&self.changes.unnamed).take();
        self.changes.tell(ChangesEvent::Kept);
        Ok(())
    }

    /// What the header names when the image is closed: nothing if its bitmaps are stored, else the journal that is still
    /// needed.
    pub(in crate::node::qcow2) fn tie_to_leave(&self) -> Tie {
        let now = self.header().tie();
        match self.changes.journal() {
            Some(_) if !self.changes.are_stored() => Tie { tables: false, ..now },
            _ => self.data_left().unwrap_or_default(),
        }
    }

    /// The header does not name it any more.
    pub(in crate::node::qcow2) fn remove_changes(&self) {
        if self.header().tie().changes.is_none()
            && let Some(journal) = locked(&self.changes.journal).take()
        {
            journal.remove();
        }
    }

    /// The header does not name the journal any more that was found when the image was opened; a new one may be in its
    /// place.
    pub(in crate::node::qcow2) fn remove_last_changes(&self) {
        if self.header().tie().changes != Some(Where::File)
            && let Some(recovered) = locked(&self.changes.recovered).as_ref()
        {
            recovered.medium.remove();
        }
    }
}
