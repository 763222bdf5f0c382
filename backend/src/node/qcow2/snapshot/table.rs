//! Another table of snapshots in the place of the one that the header names.

use super::encode;
use super::share::SnapshotFault;
use super::{Snapshot, SnapshotTable};
use crate::error::IoError;
use crate::io::Buf;
use crate::node::qcow2::header::{Header, bits};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::metadata::Structure;
use crate::node::qcow2::own_header::ChangeError;
use crate::reactor::Handle;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Image {
    /// Says from now on, stably, that counts and flags may be wrong; version 2 has no word for that.
    pub(super) async fn doubt_counts(&self, io: &Handle) -> Result<(), ChangeError> {
        match self.header().incompatible & bits::INCOMPATIBLE_DIRTY {
            0 if self.geometry.version > 2 => self.change_header(io, doubtful).await,
            _ => Ok(()),
        }
    }

    /// Says that they are right, when all of them are stable, unless something has failed before.
    pub(super) async fn trust_counts(&self, io: &Handle) -> Result<(), ChangeError> {
        match self.unsettled.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.change_header(io, |header| header.incompatible &= !bits::INCOMPATIBLE_DIRTY).await,
        }
    }

    /// Has the header name a table of these snapshots; stable when this returns. `settled`: counts are right, and stable
    /// by then; else the header says that they are not.
    ///
    /// # Errors
    /// The header names the table it named, unless it is [`SnapshotFault::Header`] with the storage's error.
    pub(super) async fn name_snapshots(
        &self,
        io: &Handle,
        snapshots: Vec<Snapshot>,
        settled: bool,
    ) -> Result<(), SnapshotFault> {
        let count = u32::try_from(snapshots.len()).map_err(|_| SnapshotFault::TooMany)?;
        let bytes = encode::table(&snapshots);
        let place = self.take_place(io, Structure::SnapshotTable, bytes.len() as u64).await?;
        let written = match bytes.is_empty() {
            true => Ok(()),
            false => self.write_table(io, place.start, &bytes).await,
        };
        if let Err(error) = written {
            self.give_place_back(io, &place).await;
            return Err(error.into());
        }
        let changed = self.change_header(io, |header| {
            header.snapshots = count;
            header.snapshots_offset = place.start;
            match settled && !self.unsettled.load(Ordering::Acquire) {
                true => header.incompatible &= !bits::INCOMPATIBLE_DIRTY,
                false => doubtful(header),
            }
        });
        if let Err(error) = changed.await {
            // After a failed write the file may name either.
            if let ChangeError::Header(_) = error {
                self.give_place_back(io, &place).await;
            }
            return Err(error.into());
        }
        let table = SnapshotTable { offset: place.start, len: place.end - place.start, snapshots };
        let last = self.snapshot_table.swap(Arc::new(table));
        self.give_place_back(io, &(last.offset..last.offset + last.len)).await;
        Ok(())
    }

    async fn write_table(&self, io: &Handle, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let mut buf = Buf::new(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        self.store.write(io, offset, buf).await?;
        self.refcounts.write_back(io).await?;
        self.store.flush(io).await
    }
}

fn doubtful(header: &mut Header) {
    if header.version > 2 {
        header.incompatible |= bits::INCOMPATIBLE_DIRTY;
    }
}
