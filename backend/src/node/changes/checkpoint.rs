//! Another generation, or the same of a larger disk, which takes effect in a hold of the node.
//!
//! A checkpoint: a new generation in the other half, so that the one before can be dropped when the bitmaps are stored.
//!
//! Until then both count. The new one begins with the areas that were written to in the last one: a steady load does
//! not wait again for areas that it has.

use super::{ChangeJournal, locked, no_memory, write_blank};
use crate::error::IoError;
use crate::range_lock::Guard;
use crate::reactor::Handle;
use std::sync::Arc;
use tidemark_cbt::journal::{self, Areas, Head};

/// A generation that is ready, and that nobody writes to the medium meanwhile.
pub struct Turning<'a> {
    journal: &'a ChangeJournal,
    next: Arc<Areas>,
    _turn: Guard<'a>,
}

impl ChangeJournal {
    /// Makes the next generation ready; `None` while two count already, because the bitmaps were not stored yet.
    ///
    /// # Errors
    /// The storage's; [`IoError::NoMemory`]. The journal is as it was.
    pub async fn turn(&self, io: &Handle) -> Result<Option<Turning<'_>>, IoError> {
        let turn = self.turn.lock(0..1).await;
        let (last, head) = (self.areas(), self.head());
        if head.live < last.generation() {
            // The next one would take the place of the one before this one, which is still needed.
            return Ok(None);
        }
        let next = Areas::new(last.generation() + 1, head.size, head.area).map_err(no_memory)?;
        next.want_touched_of(&last);
        self.write_lacking(io, &next).await?;
        Ok(Some(Turning { journal: self, next: Arc::new(next), _turn: turn }))
    }

    /// Makes the same generation ready for a disk that is to have `size` bytes.
    ///
    /// # Errors
    /// The storage's; [`IoError::NoMemory`]. The journal is as it was.
    pub async fn resize(&self, io: &Handle, size: u64) -> Result<Turning<'_>, IoError> {
        let turn = self.turn.lock(0..1).await;
        let head = self.head();
        let size = size.max(head.size);
        let (old, new) = (journal::pairs(head.size, head.area), journal::pairs(size, head.area));
        if new > old {
            self.medium.grow(io, journal::bytes(new)).await?;
            write_blank(io, &self.medium, old..new).await?;
            self.medium.flush(io).await?;
        }
        let next = self.areas().resized(size).map_err(no_memory)?;
        self.write_head(io, Head { size, ..head }).await?;
        Ok(Turning { journal: self, next: Arc::new(next), _turn: turn })
    }

    /// The bitmaps are stored with all that was written in generations before this one.
    ///
    /// # Errors
    /// The storage's; the generations before count as well.
    pub async fn stored(&self, io: &Handle, generation: u64) -> Result<(), IoError> {
        let _turn = self.turn.lock(0..1).await;
        let head = self.head();
        if head.live >= generation {
            return Ok(());
        }
        self.write_head(io, Head { live: generation, previous: None, ..head }).await
    }
}

impl Turning<'_> {
    /// Turns to it; in a hold of the node, whose requests are covered by it from then on.
    pub fn take_effect(&self) {
        *locked(&self.journal.current) = self.next.clone();
    }
}
