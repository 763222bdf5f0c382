//! The journal of an image from its opening to its close.

use super::recover::RecoverError;
use super::{Journal, Place};
use crate::error::IoError;
use crate::node::qcow2::header::{Header, HeaderError};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::own_header::ChangeError;
use crate::reactor::Handle;

impl Image {
    /// Makes what the process before this one has noted, and goes on with its journal. False if there is none.
    ///
    /// # Errors
    /// The storage's; the journal is there for the next try.
    pub(in crate::node::qcow2) async fn take_over(&self, io: &Handle, place: Option<&Place>) -> Result<bool, IoError> {
        let file = self.store.node().name();
        let Some((place, id)) = place.zip(self.header().journal()) else { return Ok(false) };
        let journal = match place.find(id) {
            Ok(Some(journal)) => journal,
            Ok(None) => {
                tracing::warn!(file, "image was not closed and its journal is gone: it is as after its last flush");
                return Ok(false);
            }
            Err(error) => {
                tracing::warn!(file, %error, "the journal of an image is not used: it is as after its last flush");
                return Ok(false);
            }
        };
        match self.recover(io, &journal).await {
            Ok(clusters) => {
                tracing::info!(file, clusters, "image was not closed: what was written to it and not flushed is there");
                journal.clear();
                // There is no other: nobody else has the image yet.
                let _ = self.journal.set(journal);
                Ok(true)
            }
            Err(error @ RecoverError::Misfit) => {
                tracing::error!(file, %error, "the journal of an image is not used: it is as after its last flush");
                journal.remove();
                Ok(false)
            }
            Err(RecoverError::Io(error)) => Err(error),
        }
    }

    /// Begins a new journal, which the image names. False if it can have none: then it is as after its last flush when
    /// this process is killed.
    ///
    /// # Errors
    /// The header cannot be written.
    pub(in crate::node::qcow2) async fn begin_journal(
        &self,
        io: &Handle,
        place: &Place,
        known: u64,
    ) -> Result<bool, ChangeError> {
        if let Some(old) = self.header().any_journal() {
            place.remove(old);
        }
        let file = self.store.node().name();
        let id = fastrand::u128(..);
        let named = self.change_header(io, |header| {
            header.autoclear &= known;
            header.set_journal(id);
        });
        match named.await {
            Ok(()) => {}
            Err(ChangeError::Header(HeaderError::DoesNotFit(_))) => {
                tracing::warn!(
                    file,
                    "the header of an image has no room to name a journal: a kill loses what is not flushed"
                );
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        match place.create(id) {
            Ok(journal) => drop(self.journal.set(journal)),
            Err(error) => tracing::warn!(file, %error, "an image has no journal: a kill loses what is not flushed"),
        }
        Ok(true)
    }

    /// The image is as its file says: it needs no journal any more.
    ///
    /// # Errors
    /// The header cannot be written; the journal stays.
    pub(in crate::node::qcow2) async fn end_journal(&self, io: &Handle) -> Result<(), IoError> {
        if self.header().any_journal().is_some() {
            let changed = self.change_header(io, Header::forget_journal).await;
            changed.map_err(|error| match error {
                ChangeError::Io(error) => error,
                ChangeError::Header(_) => IoError::Io,
            })?;
        }
        self.journal.get().into_iter().for_each(Journal::remove);
        Ok(())
    }
}
