//! Storing bitmaps, and putting a new directory in the place of the old one.

use super::clusters::Taken;
use super::{Held, InFile, StoreError};
use crate::bitmaps::Persistent;
use crate::node::points::Points;
use crate::node::qcow2::bitmap_directory::{self as directory, check_size, encoded_len};
use crate::node::qcow2::header::{BitmapsExtension, MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS, bits};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::own_header::ChangeError;
use crate::reactor::Handle;
use std::ops::Range;

/// What takes the place of what the file has, and what is free then.
struct Change {
    new: InFile,
    freed: Vec<Range<u64>>,
}

impl Image {
    /// Stores the node's persistent bitmaps, all of them or none: they may be believed when this returns. Nobody may be
    /// writing to the image any more.
    ///
    /// # Errors
    /// See [`StoreError`]; the file says that they are in use, or does not have them, unless its header could not be
    /// written: then it may have them as they are now.
    pub async fn store_bitmaps(&self, io: &Handle, points: &Points) -> Result<(), StoreError> {
        let _turn = self.bitmaps.turn().await;
        let bitmaps = points.tracking().to_store()?;
        if bitmaps.is_empty() {
            self.changes().stored();
            return Ok(());
        }
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        // Storage that has lost something would have its loss hidden by bitmaps that do not mark it.
        self.flush(io, points).await.map_err(StoreError::Flush)?;
        self.put_bitmaps(io, &bitmaps, false).await?;
        self.changes().stored();
        Ok(())
    }

    /// Stores these bitmaps, all of them or none, to be believed or `in_use`. It is the caller's turn.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(in crate::node::qcow2) async fn put_bitmaps(
        &self,
        io: &Handle,
        bitmaps: &[Persistent],
        in_use: bool,
    ) -> Result<(), StoreError> {
        // Without any the file has what it has; and some may be stored for good meanwhile.
        if bitmaps.is_empty() || (in_use && self.changes().are_stored()) {
            return Ok(());
        }
        let mut taken = Taken::default();
        match self.write_bitmaps(io, bitmaps, in_use, &mut taken).await {
            Ok(change) => self.switch(io, change, taken).await,
            Err(error) => {
                self.free_of_bitmaps(io, taken.0).await;
                Err(error)
            }
        }
    }

    async fn write_bitmaps(
        &self,
        io: &Handle,
        bitmaps: &[Persistent],
        in_use: bool,
        taken: &mut Taken,
    ) -> Result<Change, StoreError> {
        let InFile { directory, mut held, .. } = self.bitmaps.in_file().clone();
        let mut freed: Vec<Range<u64>> = directory.into_iter().collect();
        // Of those that the file does not have the newest comes first, as from QEMU.
        for bitmap in bitmaps.iter().rev() {
            self.check_bitmap(bitmap)?;
            let mut new = self.write_bitmap(io, bitmap, taken).await?;
            new.entry.in_use = in_use;
            match held.iter_mut().find(|held| held.entry.name == bitmap.name) {
                Some(old) => freed.extend(std::mem::replace(old, new).places),
                None => held.push(new),
            }
        }
        let directory = Some(self.write_directory_of(io, &held, taken).await?);
        Ok(Change { new: InFile { directory, held, unsure: false }, freed })
    }

    /// The disk may have got another size since a bitmap was made.
    fn check_bitmap(&self, bitmap: &Persistent) -> Result<(), StoreError> {
        if bitmap.bits.len() != self.length() {
            return Err(StoreError::Size(bitmap.name.clone()));
        }
        let granularity_bits = u8::try_from(bitmap.bits.granularity().bits()).unwrap_or(u8::MAX);
        let fits = check_size(granularity_bits, self.facts());
        fits.map_err(|error| StoreError::Constraints(bitmap.name.clone(), error))
    }

    /// What the file has without one of its bitmaps.
    ///
    /// # Errors
    /// See [`StoreError`]; the file has what it had.
    pub(super) async fn store_without(&self, io: &Handle, name: &str) -> Result<(), StoreError> {
        let InFile { directory, mut held, unsure } = self.bitmaps.in_file().clone();
        let mut freed: Vec<Range<u64>> = directory.into_iter().collect();
        match held.iter().position(|held| held.entry.name == name) {
            Some(at) => freed.extend(held.remove(at).places),
            None if unsure => {}
            None => return Ok(()),
        }
        let mut taken = Taken::default();
        let directory = match held.is_empty() {
            true => Ok(None),
            false => self.write_directory_of(io, &held, &mut taken).await.map(Some),
        };
        match directory {
            Ok(directory) => {
                let new = InFile { directory, held, unsure: false };
                self.switch(io, Change { new, freed }, taken).await
            }
            Err(error) => {
                self.free_of_bitmaps(io, taken.0).await;
                Err(error)
            }
        }
    }

    async fn write_directory_of(
        &self,
        io: &Handle,
        held: &[Held],
        taken: &mut Taken,
    ) -> Result<Range<u64>, StoreError> {
        let len: u64 = held.iter().map(|held| encoded_len(&held.entry.name)).sum();
        if held.len() as u64 > u64::from(MAX_BITMAPS) || len > MAX_BITMAP_DIRECTORY_BYTES {
            return Err(StoreError::Directory);
        }
        self.write_directory(io, held, taken).await
    }

    /// Lets the header lead to what was written, when that is stable, and frees what it led to before.
    async fn switch(&self, io: &Handle, change: Change, taken: Taken) -> Result<(), StoreError> {
        let Change { new, freed } = change;
        let stable = match self.refcounts.write_back(io).await {
            Ok(()) => self.store.flush(io).await,
            error => error,
        };
        if let Err(error) = stable {
            self.free_of_bitmaps(io, taken.0).await;
            return Err(StoreError::WriteDirectory(error));
        }
        let count = u32::try_from(new.held.len()).map_err(|_| StoreError::Directory)?;
        let extension = new.directory.clone().map(|place| {
            let size = place.end - place.start;
            BitmapsExtension { count, size, offset: place.start }
        });
        let changed = self.change_header(io, |header| {
            header.bitmaps = extension;
            header.autoclear &= !bits::AUTOCLEAR_BITMAPS;
            header.autoclear |= extension.map_or(0, |_| bits::AUTOCLEAR_BITMAPS);
        });
        match changed.await {
            Ok(()) => {}
            // Nobody knows which of the two the file has: nothing is used again that the old one leads to, and who
            // goes on recording marks the new one.
            Err(error @ ChangeError::Io(_)) => {
                *self.bitmaps.in_file() = InFile { unsure: true, ..new };
                return Err(error.into());
            }
            Err(error) => {
                self.free_of_bitmaps(io, taken.0).await;
                return Err(error.into());
            }
        }
        *self.bitmaps.in_file() = new;
        self.free_of_bitmaps(io, freed).await;
        Ok(())
    }

    /// What bitmaps are checked against.
    pub(in crate::node::qcow2) fn facts(&self) -> directory::Image {
        directory::Image { geometry: self.geometry, size: self.length(), file_length: self.store.node().length() }
    }
}
