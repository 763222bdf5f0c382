//! Another size of the disk, while guests read and write what both sizes have.
//!
//! The header names the size; it changes last when a disk grows and when it shrinks, and what it names is stable then.
//! What comes after the end of a disk reads as zeroes once the disk has grown, whatever is there: bytes of the last
//! cluster, entries left by somebody, a longer backing file. Space that is wanted for it is there before. What a disk
//! loses by shrinking is gone from the tables before the size says so. Texts are QEMU's.

mod ahead;
mod entries;
mod l1;
mod tail;

use super::create::Preallocation;
use super::header::MAX_L1_BYTES;
use super::image::Image;
use super::map::Found;
use super::own_header::ChangeError;
use crate::error::{GraphError, IoError};
use crate::io::{Buf, Memory, byte_count};
use crate::node::points::Points;
use crate::node::{Kind, Request};
use crate::reactor::Handle;
use std::sync::atomic::Ordering;

/// Why a disk has the size it had. Where a step has failed, what came before it has happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    /// Half a sector.
    #[error("The new size must be a multiple of 512")]
    Sectors,
    /// Version 2 does not say how long its snapshots are.
    #[error("Can't resize a v2 image which has snapshots")]
    Snapshots,
    /// More than an image with such clusters can map.
    #[error("Failed to grow the L1 table: File too large")]
    TooLarge,
    /// The backing file is longer, and version 2 cannot hide it.
    #[error("Failed to zero out new clusters: Operation not supported")]
    Unhidden,
    /// A step has failed.
    #[error("{0}: {1}")]
    Step(&'static str, IoError),
    /// There is no memory for a longer table.
    #[error("Failed to grow the L1 table: Cannot allocate memory")]
    NoMemory,
    /// The header cannot be changed.
    #[error("{0}: {1}")]
    Header(&'static str, ChangeError),
}

impl From<ResizeError> for GraphError {
    fn from(error: ResizeError) -> Self {
        Self::Resize(Box::new(error))
    }
}

/// Names a step that fails.
fn step(name: &'static str) -> impl Fn(IoError) -> ResizeError {
    move |error| ResizeError::Step(name, error)
}

impl Image {
    /// Refuses a size that the image cannot have.
    ///
    /// # Errors
    /// See [`ResizeError`]; nothing has happened.
    pub(crate) fn check_size(&self, size: u64) -> Result<(), ResizeError> {
        let header = self.header();
        let grows = size > self.length();
        let refusals = [
            (!size.is_multiple_of(512), ResizeError::Sectors),
            (header.version < 3 && header.snapshots > 0, ResizeError::Snapshots),
            (self.geometry.l1_entries(size) > MAX_L1_BYTES / 8, ResizeError::TooLarge),
            (grows && header.version < 3 && self.shows_past_its_end(), ResizeError::Unhidden),
        ];
        refusals.into_iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Makes the disk longer; guests may go on. The node lets nobody past the old end before this returns, and an
    /// external data file is that long already. The caller has stamped a request of his own meanwhile, so that
    /// clusters he finds stay what they are.
    ///
    /// # Errors
    /// See [`ResizeError`]; the disk is as long as it was.
    pub(crate) async fn grow(
        &self,
        io: &Handle,
        size: u64,
        space: Preallocation,
        points: &Points,
    ) -> Result<(), ResizeError> {
        self.check_size(size)?;
        self.lengthen_l1(io, size).await?;
        let (old, cluster) = (self.length(), self.geometry.cluster());
        let first = self.geometry.clusters(old) * cluster;
        let zeroing = step("Failed to zero out new clusters");
        self.zero_tail(io, old, first.min(size), points).await.map_err(step("Failed to zero out the new area"))?;
        let end = self.geometry.clusters(size) * cluster;
        let shown = self.backing().map_or(0, |backing| backing.length());
        let hidden = first.max((self.geometry.clusters(shown) * cluster).min(end));
        self.hide(io, first..hidden, points).await.map_err(&zeroing)?;
        self.drop_entries(io, hidden..end, points).await.map_err(&zeroing)?;
        if space != Preallocation::Off {
            self.take_ahead(io, old..size, space, points).await?;
        }
        self.flush(io, points).await.map_err(&zeroing)?;
        self.set_size(io, size).await
    }

    /// Makes the disk shorter: what is past the new end is gone. No request past it is under way, or comes.
    ///
    /// # Errors
    /// See [`ResizeError`]; the disk is as long as it was, and may read as zeroes past the new end.
    pub(crate) async fn shrink(&self, io: &Handle, size: u64, points: &Points) -> Result<(), ResizeError> {
        self.check_size(size)?;
        let cluster = self.geometry.cluster();
        let lost = self.geometry.clusters(size) * cluster..self.geometry.clusters(self.length()) * cluster;
        let cropping = step("Failed to discard cropped clusters");
        self.drop_entries(io, lost, points).await.map_err(&cropping)?;
        self.flush(io, points).await.map_err(&cropping)?;
        self.drop_tables(io, size).await.map_err(step("Failed to reduce the number of L2 tables"))?;
        self.set_size(io, size).await
    }

    /// Whether the backing file has something where the image ends.
    fn shows_past_its_end(&self) -> bool {
        self.backing().is_some_and(|backing| backing.length() > self.length())
    }

    /// Makes the rest of the last cluster read as zeroes, where a part of it only has been the disk's.
    async fn zero_tail(&self, io: &Handle, old: u64, end: u64, points: &Points) -> Result<(), IoError> {
        if old == end {
            return Ok(());
        }
        let len = end - old;
        let is_zero = match self.locate(io, old, len).await?.found {
            Found::Zero { .. } => true,
            // Whoever puts a cluster there copies zeroes past the backing file's end.
            Found::Unallocated => !self.shows_past_its_end(),
            _ => false,
        };
        if is_zero {
            return Ok(());
        }
        let memory = Memory::from(Buf::new(byte_count(len)));
        self.write(io, Request { kind: Kind::Write, fua: false, offset: old, len, memory }, points).await.1
    }

    /// Names the size in the header; stable when this returns.
    async fn set_size(&self, io: &Handle, size: u64) -> Result<(), ResizeError> {
        let changed = self.change_header(io, |header| header.size = size).await;
        changed.map_err(|error| ResizeError::Header("Failed to update the image size", error))?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}
