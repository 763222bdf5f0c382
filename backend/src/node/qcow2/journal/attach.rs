//! The journal of an image from its opening to its close.

use super::recover::RecoverError;
use super::tie::{Changes, Tie};
use super::{Journal, JournalError, Place};
use crate::error::IoError;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::open::OpenError;
use crate::node::qcow2::own_header::ChangeError;
use crate::node::{Driver, Node};
use crate::reactor::Handle;
use std::path::PathBuf;

impl Image {
    /// Makes what the process before this one has noted, if its journal is there. Returns that journal, which is not
    /// needed as soon as the header does not name it.
    ///
    /// # Errors
    /// The storage's, and what keeps the system from showing the journal now; it is there for the next try.
    pub(in crate::node::qcow2) async fn take_over(
        &self,
        io: &Handle,
        place: &Place,
    ) -> Result<Option<Journal>, OpenError> {
        let below = self.store.node();
        let file = below.name();
        let Some(id) = self.header().journal() else { return Ok(None) };
        let image = path_of(&self.store.node()).unwrap_or_default();
        let journal = match place.find(id, &image) {
            Ok(Some(journal)) => journal,
            Ok(None) => {
                tracing::warn!(file, "image was not closed and its journal is gone: it is as after its last flush");
                return Ok(None);
            }
            Err(error @ JournalError::File { .. }) => return Err(OpenError::Journal(error.to_string())),
            Err(error) => {
                tracing::warn!(file, %error, "the journal of an image is not used: it is as after its last flush");
                return Ok(None);
            }
        };
        match self.recover(io, &journal).await {
            Ok(clusters) => {
                tracing::info!(file, clusters, "image was not closed: what was written to it and not flushed is there");
            }
            Err(error @ RecoverError::Misfit) => {
                tracing::error!(file, %error, "the journal of an image is not used: it is as after its last flush");
            }
            Err(RecoverError::Io(error)) => return Err(OpenError::Recover(error)),
        }
        Ok(Some(journal))
    }

    /// Makes a new journal with this number, before the header names it. Without one, which is no error, the image is as
    /// after its last flush when this process is killed.
    pub(in crate::node::qcow2) fn make_journal(&self, place: &Place, number: u64) -> Option<Journal> {
        let made = place.create(number, &path_of(&self.store.node()).unwrap_or_default());
        made.inspect_err(|error| {
            let below = self.store.node();
            let file = below.name();
            tracing::warn!(file, %error, "an image has no journal: if the daemon is killed, what was not flushed is lost");
        })
        .ok()
    }

    /// The image is as its file says, and goes on with no more than `left`: it needs no journal of tables any more.
    ///
    /// # Errors
    /// The header cannot be written; the journal stays.
    pub(in crate::node::qcow2) async fn end_journal(&self, io: &Handle, left: Tie) -> Result<(), IoError> {
        if self.header().tie() != left {
            let changed = self.change_header(io, |header| header.set_tie(left)).await;
            changed.map_err(|error| match error {
                ChangeError::Io(error) => error,
                ChangeError::Header(_) => IoError::Io,
            })?;
        }
        let journal = self.journal.swap(None);
        if left.changes != Some(Changes::Shared) {
            journal.iter().for_each(|journal| journal.remove());
        }
        Ok(())
    }
}

/// The path of the file below a node, from the root.
pub(in crate::node::qcow2) fn path_of(node: &Node) -> Option<PathBuf> {
    match node.driver() {
        Driver::File(file) => std::fs::canonicalize(file.path()).ok(),
        _ => path_of(&*node.child()?),
    }
}
