//! Where compressed clusters go in the file: one right behind the other, any number of them in one cluster of the file,
//! which counts each once.
//!
//! As long as more may come a cluster counts the packer, too, so that nobody else is given it when all others are gone.
//! After a crash that one leaks.

use crate::error::IoError;
use crate::io::Buf;
use crate::node::qcow2::image::Image;
use crate::node::{Kind, Request};
use crate::range_lock::RangeLock;
use crate::reactor::Handle;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Clusters that are taken at once.
const AHEAD: u64 = 16;

/// See the module.
#[derive(Default)]
pub struct Packer {
    /// Who has whole clusters written compressed.
    users: AtomicUsize,
    /// Of those who place something.
    turn: RangeLock,
    /// Bytes of the file that are free for what comes next; the first may be inside a cluster.
    free: Mutex<Range<u64>>,
}

impl Packer {
    /// Whether anybody wants whole clusters compressed.
    pub fn is_used(&self) -> bool {
        self.users.load(Ordering::Acquire) > 0
    }

    fn free(&self) -> Range<u64> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_free(&self, free: Range<u64>) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = free;
    }
}

impl Image {
    /// Whether whole clusters can be written compressed at all: never to a data file.
    pub fn can_compress(&self) -> bool {
        !self.geometry.external_data && !self.is_read_only()
    }

    /// Writes of whole clusters that have no space yet are compressed from now on, until as many
    /// [`Image::end_compressing`] as this.
    pub fn begin_compressing(&self) {
        self.packer.users.fetch_add(1, Ordering::AcqRel);
    }

    /// Undoes one [`Image::begin_compressing`].
    pub async fn end_compressing(&self, io: &Handle) {
        if self.packer.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop_packing(io).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "clusters that were taken for compressed data could not be freed: they leak");
            });
        }
    }

    /// Gives back what was taken ahead.
    pub(in crate::node::qcow2) async fn stop_packing(&self, io: &Handle) -> Result<(), IoError> {
        let _turn = self.packer.turn.lock(0..1).await;
        self.let_go_of(io, self.packer.free()).await
    }

    /// Writes compressed data to the file, which counts it; where it is.
    pub(super) async fn pack(&self, io: &Handle, bytes: &[u8]) -> Result<u64, IoError> {
        let _turn = self.packer.turn.lock(0..1).await;
        let len = bytes.len() as u64;
        let place = match self.place(io, len).await {
            // A count cannot be larger: a cluster of its own.
            Err(IoError::Invalid) => self.place_alone(io, len).await?,
            other => other?,
        };
        self.inflater.forget(place.start);
        let memory = Buf::copy_of(bytes).into();
        let write = Request { kind: Kind::Write, fua: false, offset: place.start, len, memory };
        if let Err(error) = self.data.get().handle(io, write).await.1 {
            self.unpack(io, place).await?;
            return Err(error);
        }
        Ok(place.start)
    }

    /// Counts off what was packed there and nothing leads to.
    pub(super) async fn unpack(&self, io: &Handle, place: Range<u64>) -> Result<(), IoError> {
        let first = self.geometry.cluster_start(place.start);
        self.refcounts.release(io, first, self.geometry.clusters(place.end - first)).await.map(drop)
    }

    /// A place for so many bytes behind the last ones, counted.
    async fn place(&self, io: &Handle, len: u64) -> Result<Range<u64>, IoError> {
        let mut free = self.packer.free();
        if free.end - free.start < len {
            let run = self.take_clusters(io, AHEAD.max(self.geometry.clusters(len))).await?;
            let all = run.host..run.host + run.clusters * self.geometry.cluster();
            free = match free.end == all.start {
                true => free.start..all.end,
                false => {
                    self.let_go_of(io, free).await?;
                    all
                }
            };
            self.packer.set_free(free.clone());
            if free.end - free.start < len {
                // A device that is nearly full.
                return Err(IoError::NoSpace);
            }
        }
        let place = free.start..free.start + len;
        let first = self.geometry.cluster_start(place.start);
        self.refcounts.raise(io, first, self.geometry.clusters(place.end - first)).await?;
        // What is full counts its contents only.
        let next = self.geometry.cluster_start(place.end);
        let full = (next - first) / self.geometry.cluster();
        self.packer.set_free(if place.end == free.end { 0..0 } else { place.end..free.end });
        self.refcounts.release(io, first, full).await?;
        Ok(place)
    }

    async fn place_alone(&self, io: &Handle, len: u64) -> Result<Range<u64>, IoError> {
        let run = self.refcounts.allocate_contiguous(io, self.geometry.clusters(len)).await?;
        self.tables.forbid_new_metadata();
        self.store.grow(io, run.host + run.clusters * self.geometry.cluster()).await?;
        Ok(run.host..run.host + len)
    }

    /// Counts the packer off clusters that nothing more comes to.
    async fn let_go_of(&self, io: &Handle, free: Range<u64>) -> Result<(), IoError> {
        self.packer.set_free(0..0);
        if free.is_empty() {
            return Ok(());
        }
        let first = self.geometry.cluster_start(free.start);
        self.refcounts.release(io, first, self.geometry.clusters(free.end - first)).await.map(drop)
    }
}
