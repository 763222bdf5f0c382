//! Before the first write to an image: its bitmaps are in use, and those that are out of date are forgotten.

use crate::io::byte_count;
use crate::node::qcow2::bitmap_directory::mark_in_use;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::own_header::ChangeError;
use crate::reactor::Handle;

/// The smallest piece that is written.
const SECTOR: u64 = 512;

impl Image {
    /// Drops the bitmaps that a program did not know of which wrote to the image.
    ///
    /// # Errors
    /// Those of a change of the header.
    pub(in crate::node::qcow2) async fn forget_stale_bitmaps(&self, io: &Handle) -> Result<(), ChangeError> {
        if self.header().stale_bitmaps {
            let below = self.file();
            let file = below.name();
            tracing::warn!(
                file,
                "a program lacking bitmap support modified this image, so all bitmaps are dropped; some clusters may \
                 be leaked, run 'tidemark check --repair leaks' on the image to free them"
            );
            self.change_header(io, |header| header.stale_bitmaps = false).await?;
        }
        Ok(())
    }

    /// Says in the file, stably, that what it has of its bitmaps is not to be believed from now on.
    ///
    /// # Errors
    /// The storage's; those of a change of the header.
    pub(in crate::node::qcow2) async fn begin_recording(&self, io: &Handle) -> Result<(), ChangeError> {
        let _turn = self.bitmaps.turn.lock(0..1).await;
        let place = {
            let in_file = self.bitmaps.in_file();
            in_file.directory.clone().filter(|_| in_file.held.iter().any(|held| !held.entry.in_use))
        };
        let Some(place) = place else { return Ok(()) };
        let len = place.end - place.start;
        let sectors = len.next_multiple_of(SECTOR);
        let mut bytes = self.store.read(io, place.start, sectors).await?;
        mark_in_use(bytes.as_mut_slice().get_mut(..byte_count(len)).unwrap_or_default());
        self.store.grow(io, place.start + sectors).await?;
        self.store.write(io, place.start, bytes).await?;
        self.store.flush(io).await?;
        self.bitmaps.in_file().held.iter_mut().for_each(|held| held.entry.in_use = true);
        Ok(())
    }
}
