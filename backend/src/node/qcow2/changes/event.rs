//! What is told of change journals.

use super::{Changes, locked};
use crate::error::IoError;
use crate::node::qcow2::image::Image;
use std::sync::{Arc, OnceLock};

/// Something has happened to a change journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangesEvent {
    /// There is one from now on.
    Kept,
    /// It had something when the image was opened: these bitmaps go on, each with so many bytes more than it was stored
    /// with.
    Recovered(Vec<(String, u64)>),
    /// It is given up: a crash would make bitmaps inconsistent.
    GivenUp(IoError),
}

/// Is told of a node's journal; from any thread, must not block.
pub type Listener = Arc<dyn Fn(&str, &ChangesEvent) + Send + Sync>;

/// The node's name, and who listens as soon as somebody does.
pub(super) type Told = OnceLock<(String, Arc<OnceLock<Listener>>)>;

impl Changes {
    pub(super) fn tell(&self, event: ChangesEvent) {
        if let Some((node, listener)) = self.told.get()
            && let Some(listener) = listener.get()
        {
            listener(node, &event);
        }
    }
}

impl Image {
    /// Has `listener` told what happens to the journal, as of node `name`, beginning with what has happened already.
    pub fn tell_changes(&self, name: &str, listener: Arc<OnceLock<Listener>>) {
        let _ = self.changes.told.set((name.to_owned(), listener));
        let recovered = locked(&self.changes.recovered).as_ref().map(super::Recovered::bitmaps);
        if let Some(bitmaps) = recovered {
            for (bitmap, bytes) in &bitmaps {
                tracing::info!(
                    node = name,
                    bitmap,
                    bytes,
                    "bitmap of an image that was not closed is whole: its change \
                    journal had areas of so many bytes more than were marked when it was stored"
                );
            }
            self.changes.tell(ChangesEvent::Recovered(bitmaps));
        }
        if self.changes.journal().is_some() {
            self.changes.tell(ChangesEvent::Kept);
        }
    }
}
