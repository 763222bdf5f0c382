//! What shows from below becomes the image's own, while guests read and write: the disk's content stays the same.
//!
//! Only clusters of which the image has nothing are touched, and that is looked at once more when nobody else can change
//! their entries: whoever has written there meanwhile is not overwritten. What is zero below becomes zero clusters, as
//! far as the version has such. A cluster is the image's own as a whole or not at all.

use super::image::Image;
use super::map::Found;
use super::write::Aim;
use super::zero::Fate;
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::points::Points;
use crate::node::{Kind, Map, Request};
use crate::reactor::Handle;

/// Bytes that are read from below at once, or one cluster.
const PIECE: u64 = 1 << 20;

impl Image {
    /// Copies from below what the image has nothing of, of all clusters that a range touches.
    ///
    /// # Errors
    /// The storage's; what has been copied until then stays.
    pub(in crate::node) async fn populate(
        &self,
        io: &Handle,
        offset: u64,
        len: u64,
        spare: &mut Option<Buf>,
        points: &Points,
    ) -> Result<(), IoError> {
        if self.is_broken() {
            return Err(IoError::Io);
        }
        if !self.backing.is_some() {
            return Ok(());
        }
        self.settling.over(io).await;
        let (geometry, end) = (self.geometry, offset.saturating_add(len));
        let end = (geometry.clusters(end) * geometry.cluster()).min(self.length());
        let mut at = geometry.cluster_start(offset);
        while at < end {
            let extent = self.locate(io, at, end - at).await?;
            at += match extent.found {
                Found::Unallocated => self.populate_run(io, at, extent.len, spare, points).await?,
                _ => extent.len,
            };
        }
        Ok(())
    }

    /// Where a request leads without waiting, if all of it is in one cluster of the image's own.
    pub(in crate::node) fn map_own(&self, request: &Request, offset: u64) -> Map {
        match self.tables.in_place(offset, request.len) {
            Some(host) => self.data.with(|data| data.map_below(request, host)),
            None => Map::Task,
        }
    }

    /// Copies the beginning of a run that the image has nothing of; returns how many bytes that was.
    async fn populate_run(
        &self,
        io: &Handle,
        at: u64,
        len: u64,
        spare: &mut Option<Buf>,
        points: &Points,
    ) -> Result<u64, IoError> {
        let zeroes = self.zeroes_below(io, at, len).await?;
        if zeroes > 0 {
            self.populate_zeroes(io, at, zeroes, points).await?;
            return Ok(zeroes);
        }
        let piece = len.min(PIECE.max(self.geometry.cluster()));
        let memory = spare.take_if(|buf| buf.as_slice().len() as u64 == piece);
        let memory = Memory::from(memory.unwrap_or_else(|| Buf::new(byte_count(piece))));
        let read = Request { kind: Kind::Read, fua: false, offset: at, len: piece, memory };
        let (memory, result) = self.view().read(io, read).await;
        result?;
        let (memory, result) = match memory.is_zero() {
            true => (memory, self.populate_zeroes(io, at, piece, points).await),
            false => {
                let write = Request { kind: Kind::Write, fua: false, offset: at, len: piece, memory };
                self.write_as(io, write, Aim::Missing, points).await
            }
        };
        *spare = memory.into_buf();
        result.map(|()| piece)
    }

    /// Bytes from `at` on that are known to be zeroes below: whole clusters, or all of `len`.
    async fn zeroes_below(&self, io: &Handle, at: u64, len: u64) -> Result<u64, IoError> {
        let Some(backing) = self.backing() else { return Ok(0) };
        let shown = backing.length().saturating_sub(at).min(len);
        let zeroes = match shown {
            0 => len,
            _ => match backing.status(io, at, shown).await? {
                status if !status.zero => 0,
                // Below its end there is nothing.
                status if status.len >= shown => len,
                status => status.len,
            },
        };
        Ok(if zeroes == len { len } else { self.geometry.cluster_start(at + zeroes).saturating_sub(at) })
    }

    async fn populate_zeroes(&self, io: &Handle, at: u64, len: u64, points: &Points) -> Result<(), IoError> {
        if self.geometry.version < 3 || self.geometry.extended {
            return self.populate_with_zeroes(io, at, len, points).await;
        }
        let end = self.geometry.clusters(at + len) * self.geometry.cluster();
        self.each_table(io, at, end, Fate::Populate, points).await
    }

    /// Version 2 has no zero clusters, and of an extended entry parts may be missing.
    async fn populate_with_zeroes(&self, io: &Handle, at: u64, len: u64, points: &Points) -> Result<(), IoError> {
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(PIECE.max(self.geometry.cluster()));
            let memory = Memory::from(Buf::new(byte_count(piece)));
            let write = Request { kind: Kind::Write, fua: false, offset: at + done, len: piece, memory };
            self.write_as(io, write, Aim::Missing, points).await.1?;
            done += piece;
        }
        Ok(())
    }
}
