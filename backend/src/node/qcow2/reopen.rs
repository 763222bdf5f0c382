//! An open image with other options: what is changed while it is in use, and how it comes to be read-only or writable.
//!
//! Read-only it is as if it had been closed, and writable again as if it had been opened: what its file says of it is
//! the same. What it has in memory stays.

use super::bitmaps::StoreError;
use super::header::bits;
use super::image::Image;
use super::journal::Place;
use super::open::{OpenError, Options};
use crate::epoch::Grace;
use crate::error::{GraphError, IoError};
use crate::node::points::Points;
use crate::node::{Hold, Kept, Node};
use crate::range_lock::Guard;
use crate::reactor::Handle;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

/// Why an image cannot be made read-only.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Its bitmaps cannot be stored.
    #[error(transparent)]
    Bitmaps(#[from] StoreError),
    /// The storage's.
    #[error("{0}")]
    Io(#[from] IoError),
}

impl Image {
    /// Takes what may be otherwise while the image is in use; at any time.
    pub(crate) fn change_options(&self, options: &Options) {
        self.punches.store(options.pass_discard, Ordering::Release);
        self.refcounts.set_cache_size(options.refcount_cache_bytes);
        self.tables.set_cache_size(options.l2_cache_bytes);
    }

    /// The file is as if the image had been closed, and others may read it as such. Nobody may be writing to the image.
    ///
    /// # Errors
    /// See [`CloseError`]; the image can be written to as before, unless it is read-only then, because its file cannot
    /// be made to say that it is in use.
    pub(crate) async fn become_read_only(&self, io: &Handle, points: &Points) -> Result<(), CloseError> {
        if let Err(error) = self.store_and_close(io, points).await {
            self.go_on_recording(io).await;
            return Err(error);
        }
        self.read_only.store(true, Ordering::Release);
        self.holds().iter_mut().try_for_each(|hold| hold.change(false)).unwrap_or_else(|error| {
            tracing::warn!(file = self.file().name(), "an image that became read-only keeps its locks: {error}");
        });
        Ok(())
    }

    async fn store_and_close(&self, io: &Handle, points: &Points) -> Result<(), CloseError> {
        self.store_bitmaps(io, points).await?;
        Ok(self.close(io, points).await?)
    }

    /// Bitmaps may be stored, and guests go on writing all the same: what the file has of them is not to be believed.
    async fn go_on_recording(&self, io: &Handle) {
        self.changes.go_on();
        if let Err(error) = self.begin_recording(io).await {
            let below = self.file();
            tracing::error!(
                file = below.name(),
                "an image whose bitmaps cannot be marked as in use is read-only: {error}"
            );
            self.read_only.store(true, Ordering::Release);
        }
    }

    /// The image can be written to, as if it had been opened like that.
    ///
    /// # Errors
    /// Others use the file; the storage's; the image may not be written to as it is. It is read-only then.
    pub(crate) async fn become_writable(&self, io: &Handle, place: Option<&Place>) -> Result<(), BeginError> {
        let header = self.header();
        if header.incompatible & bits::INCOMPATIBLE_CORRUPT != 0 || self.is_broken() {
            header.writable().map_err(OpenError::from)?;
        }
        let begun = match self.lock_for_writing() {
            Ok(()) => self.begin_anew(io, place).await.map_err(BeginError::from),
            Err(error) => Err(error.into()),
        };
        match begun {
            Ok(()) => self.read_only.store(false, Ordering::Release),
            Err(_) => self.holds().iter_mut().for_each(|hold| drop(hold.change(false))),
        }
        begun
    }

    async fn begin_anew(&self, io: &Handle, place: Option<&Place>) -> Result<(), OpenError> {
        self.changes.begin_anew();
        self.begin(io, place, None).await?;
        Ok(self.begin_recording(io).await?)
    }

    fn lock_for_writing(&self) -> Result<(), GraphError> {
        self.holds().iter_mut().try_for_each(|hold| hold.change(true))
    }

    fn holds(&self) -> MutexGuard<'_, Vec<Hold>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the image over another node, or none; inside [`crate::node::points::hold`].
    pub(crate) fn change_backing(&self, node: Option<Arc<Node>>) {
        self.backing.change(node);
    }

    /// Puts the image, which has none, over a node that guests write to so far; inside [`crate::node::points::hold`] of
    /// all of them. What `hold` keeps from others is kept as long as the node is below. [`Image::settle`] has to follow.
    pub(crate) fn cover(&self, node: Kept, hold: Hold) {
        self.settling.begin();
        self.exchange_holds(None, Some(hold));
        self.change_backing(node.hand_over());
    }

    /// Guests' writes of `grace` are those that were under way below when the image was put there.
    pub(crate) fn settle(&self, grace: Grace) {
        self.settling.settle(grace);
    }

    /// Reads and writes its metadata, and its clusters if they are in the same file, through another node that shows the
    /// same; inside [`crate::node::points::hold`].
    pub(crate) fn change_file(&self, node: Arc<Node>) {
        self.store.link().change(node);
    }

    /// Keeps others from `new` and no longer from `last`, which nobody looks at any more.
    pub(crate) fn exchange_holds(&self, last: Option<&Arc<Node>>, new: Option<Hold>) {
        let mut holds = self.holds();
        // The image may use a node for more than this.
        let of_format = new.as_ref().is_some_and(Hold::is_of_format);
        let is_last =
            |hold: &Hold| last.is_some_and(|last| Arc::ptr_eq(hold.node(), last)) && hold.is_of_format() == of_format;
        let old = holds.iter().position(is_last);
        old.into_iter().for_each(|old| drop(holds.swap_remove(old)));
        holds.extend(new);
    }

    /// Waits until no write-back cycle runs; none begins as long as the guard lives.
    pub(crate) async fn pause_write_back(&self) -> Guard<'_> {
        self.writeback.pause().await
    }

    /// What was written since the last flush that succeeded may be lost: all of it is written once more with the next
    /// one. No write-back cycle runs.
    ///
    /// # Errors
    /// The storage's, which has to be read.
    pub(crate) async fn doubt_last_writes(&self, io: &Handle) -> Result<(), IoError> {
        self.header.doubt();
        self.tables.mark_dirty();
        self.doubt_l1();
        self.refcounts.mark_dirty(io).await
    }
}

/// Why an image cannot be made writable.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Others use its files.
    #[error(transparent)]
    Used(#[from] GraphError),
    /// As when it is opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}
