//! Which bitmaps an image can keep, and taking one out of the file at once.

use super::StoreError;
use crate::node::qcow2::bitmap_directory::{NotStorable, check_storable};
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;

impl Image {
    /// Whether the image can keep a bitmap of this name besides `others`, which it has to keep already.
    ///
    /// # Errors
    /// Why not.
    pub fn check_storable<'a>(
        &self,
        name: &str,
        granularity_bits: u8,
        others: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), NotStorable> {
        check_storable(name, granularity_bits, others, self.facts())
    }

    /// Removes a bitmap from the file, if the file has it; stable when this returns.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn remove_bitmap(&self, io: &Handle, name: &str) -> Result<(), StoreError> {
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        let _turn = self.bitmaps.turn.lock(0..1).await;
        self.store_without(io, name).await?;
        self.forget_lost(io, name).await;
        Ok(())
    }

    /// A bitmap of this name that comes now is not the one that was lost.
    async fn forget_lost(&self, io: &Handle, name: &str) {
        let journal = self.changes().journal();
        if self.bitmaps.forget_lost(name)
            && let Some(journal) = journal
            && let Err(error) = journal.forget_lost(io, name).await
        {
            tracing::warn!(bitmap = name, %error, "a bitmap of this name would be inconsistent after a crash");
        }
    }
}
