//! A checkpoint of an image: what the journal had before is stored in the bitmaps, and not needed any more.
//!
//! The hold is the caller's, between [`Image::turn_changes`] and [`Image::store_changes`].

use crate::error::IoError;
use crate::node::changes::{ChangeJournal, Turning};
use crate::node::points::Points;
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

impl Image {
    /// Makes the journal's next generation ready; `None` if it has one already whose bitmaps are not stored.
    pub async fn turn_changes<'a>(&self, io: &Handle, journal: &'a ChangeJournal) -> Option<Turning<'a>> {
        match journal.turn(io).await {
            Ok(turning) => turning,
            Err(error) => {
                self.give_up_changes(io, error).await;
                None
            }
        }
    }

    /// Makes the journal ready for a disk that is to have `size` bytes.
    pub async fn resize_changes<'a>(&self, io: &Handle, journal: &'a ChangeJournal, size: u64) -> Option<Turning<'a>> {
        match journal.resize(io, size).await {
            Ok(turning) => Some(turning),
            Err(error) => {
                self.give_up_changes(io, error).await;
                None
            }
        }
    }

    /// Stores the bitmaps, and drops what the journal has of generations before its newest. What cannot be stored stays
    /// in the journal.
    pub async fn store_changes(&self, io: &Handle, points: &Points) {
        let Some(journal) = self.changes.journal() else { return };
        let generation = journal.areas().generation();
        match self.save_bitmaps(io, points).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let below = self.file();
                let file = below.name();
                tracing::warn!(file, %error, "bitmaps of an image could not be stored; its change journal has what they lack");
                return;
            }
        }
        if let Err(error) = journal.stored(io, generation).await {
            self.give_up_changes(io, error).await;
        }
    }

    /// Makes a change of bitmaps that is no write outlive a crash. If that fails, nothing of them does.
    pub async fn save_changes(&self, io: &Handle, points: &Points) {
        if let Err(error) = self.save_bitmaps(io, points).await {
            let below = self.file();
            let file = below.name();
            tracing::warn!(file, %error, "a change of bitmaps could not be stored");
            self.give_up_changes(io, IoError::Io).await;
        }
    }
}
