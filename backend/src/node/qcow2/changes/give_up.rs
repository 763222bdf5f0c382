//! A journal that cannot be written: it is given up in the image, then in memory, and whoever listens is told.

use super::ChangesEvent;
use crate::error::IoError;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::journal::tie::Tie;
use crate::node::qcow2::own_header::ChangeError;
use crate::reactor::Handle;
use tidemark_cbt::journal::Areas;

impl Image {
    /// Has a range of the disk in the change journal, stably, in the generation `areas`; if that fails, nobody keeps
    /// the journal any more and the image says so.
    ///
    /// # Errors
    /// The image cannot say so: then nothing may be written to the range.
    pub(in crate::node) async fn cover_changes(
        &self,
        io: &Handle,
        areas: &Areas,
        offset: u64,
        len: u64,
    ) -> Result<(), IoError> {
        let Some(journal) = self.changes.journal() else {
            areas.waive();
            return Ok(());
        };
        match journal.cover(io, areas, offset, len).await {
            Ok(()) => Ok(()),
            Err(error) => {
                journal.give_up(self.untie_changes(io)).await.map_err(|_| error)?;
                areas.waive();
                self.tell_loss(error);
                Ok(())
            }
        }
    }

    /// Gives the journal up because what should be stored with it cannot be.
    pub async fn give_up_changes(&self, io: &Handle, error: IoError) {
        let Some(journal) = self.changes.journal() else { return };
        if journal.give_up(self.untie_changes(io)).await.is_ok() {
            self.tell_loss(error);
        }
    }

    async fn untie_changes(&self, io: &Handle) -> Result<(), ChangeError> {
        self.change_header(io, |header| {
            let tie = header.tie();
            header.set_tie(Tie { changes: None, ..tie });
        })
        .await
    }

    fn tell_loss(&self, error: IoError) {
        let below = self.file();
        let file = below.name();
        tracing::error!(
            file,
            %error,
            "the change journal of an image cannot be written and is given up: bitmaps are right until a crash, which \
             would make them inconsistent; have them stored by closing the image, and look after the journal's storage"
        );
        self.changes.tell(ChangesEvent::GivenUp(error));
    }
}
