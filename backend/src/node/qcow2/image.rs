//! An open image: its tables, its counts, its files, and the one way in for requests.

use super::bitmaps::Bitmaps;
use super::changes::Changes;
use super::compressed::Inflater;
use super::compressed::pack::Packer;
use super::corruption::{Listener, Soundness};
use super::entry::Geometry;
use super::freed::Quarantine;
use super::journal::Journal;
use super::l2::Tables;
use super::map::{Extent, Found, View};
use super::own_header::OwnHeader;
use super::refcount::Refcounts;
use super::reserve::Reserve;
use super::settling::Settling;
use super::snapshot::SnapshotTable;
use super::store::Store;
use super::writeback::WriteBack;
use crate::bitmaps::Persistent;
use crate::error::IoError;
use crate::node::link::{Link, MaybeLink};
use crate::node::points::Points;
use crate::node::{Hold, Kind, Map, Node, Outcome, Request};
use crate::range_lock::RangeLock;
use crate::reactor::Handle;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// An open image.
pub struct Image {
    pub(super) store: Store,
    /// Where guest clusters are: the same file, or one of their own.
    pub(super) data: Arc<Link>,
    pub(super) backing: MaybeLink,
    /// What was under way below when that was put there.
    pub(super) settling: Settling,
    /// How many points in time of a node below are kept here: what shows there may be copied here at any moment.
    pub(super) keeping: AtomicUsize,
    pub(super) geometry: Geometry,
    /// Where the file has the L1 table; changed while no write-back cycle runs.
    pub(super) l1_offset: AtomicU64,
    pub(super) tables: Tables,
    pub(super) inflater: Inflater,
    pub(super) packer: Packer,
    pub(super) refcounts: Refcounts,
    pub(super) reserve: Reserve,
    /// Guest clusters whose entries somebody is changing, in bytes.
    pub(super) clusters: RangeLock,
    /// Tables that somebody is making, by number.
    pub(super) table_turns: RangeLock,
    pub(super) freed: Quarantine,
    pub(super) writeback: WriteBack,
    /// What is not written back, for the process after this one.
    pub(super) journal: ArcSwapOption<Journal>,
    /// Whether the file is told of clusters that a guest has discarded.
    pub(super) punches: AtomicBool,
    pub(super) read_only: AtomicBool,
    pub(super) soundness: Soundness,
    pub(super) size: AtomicU64,
    pub(super) header: OwnHeader,
    pub(super) snapshot_table: ArcSwap<SnapshotTable>,
    /// Something has failed that leaves counts or flags wrong until the image is opened again.
    pub(super) unsettled: AtomicBool,
    pub(super) bitmaps: Bitmaps,
    pub(super) changes: Changes,
    /// Its files, kept from others.
    pub(super) holds: Mutex<Vec<Hold>>,
}

impl Image {
    /// Bytes of the guest's disk.
    pub fn length(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        self.geometry.cluster()
    }

    /// The node with the image's metadata.
    pub fn file(&self) -> Arc<Node> {
        self.store.node()
    }

    /// The node with the guest's clusters, if it is not that with the metadata.
    pub fn data_file(&self) -> Option<Arc<Node>> {
        (!Arc::ptr_eq(&self.data, self.store.link())).then(|| self.data.get())
    }

    /// Whether nothing is written.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// The bitmaps that were loaded, for the image's node; nothing the second time.
    pub(in crate::node) fn take_loaded_bitmaps(&self) -> Vec<Persistent> {
        self.bitmaps.take_loaded()
    }

    /// Whether its file has bitmaps, or may have.
    pub(in crate::node) fn has_stored_bitmaps(&self) -> bool {
        self.bitmaps.has_any()
    }

    /// Its internal snapshots.
    pub fn snapshots(&self) -> Arc<SnapshotTable> {
        self.snapshot_table.load_full()
    }

    /// Keeps others from its files as long as the image is there.
    pub(crate) fn keep(&mut self, holds: Vec<Hold>) {
        *self.holds.get_mut().unwrap_or_else(PoisonError::into_inner) = holds;
    }

    /// Has `listener` told of corruption that is found, as of node `name`.
    pub(crate) fn tell_corruption(&self, name: &str, listener: Arc<OnceLock<Listener>>) {
        self.soundness.tell(name, listener);
    }

    /// The node whose content shows where the image has none.
    pub fn backing(&self) -> Option<Arc<Node>> {
        self.backing.get()
    }

    /// A point in time of what shows from below is kept here until [`Image::end_keeping`].
    pub(in crate::node) fn begin_keeping(&self) {
        self.keeping.fetch_add(1, Ordering::AcqRel);
    }

    /// Undoes one [`Image::begin_keeping`].
    pub(in crate::node) fn end_keeping(&self) {
        self.keeping.fetch_sub(1, Ordering::AcqRel);
    }

    /// What reading takes.
    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        View {
            tables: &self.tables,
            data: &self.data,
            backing: self.backing.look(),
            is_keeping: self.keeping.load(Ordering::Acquire) > 0,
            inflater: &self.inflater,
        }
    }

    /// What is at a guest's offset, for at most `len` bytes.
    pub(super) async fn locate(&self, io: &Handle, offset: u64, len: u64) -> Result<Extent, IoError> {
        self.view().locate_or_load(io, offset, len).await
    }

    /// Where a request leads without waiting.
    #[inline(never)]
    pub(in crate::node) fn map(&self, request: &Request, offset: u64) -> Map {
        match request.kind {
            Kind::Read => {}
            // Stable means that what leads there is stable, too.
            Kind::Write if !request.fua && !self.soundness.is_broken() => {}
            _ => return Map::Task,
        }
        match self.tables.in_place(offset, request.len) {
            Some(host) => self.data.with(|data| data.map_below(request, host)),
            None => self.view().map(request, offset),
        }
    }

    /// How far from `offset` on a guest reads zeroes (false) or may read data (true).
    pub(in crate::node) async fn extent(&self, io: &Handle, offset: u64, len: u64) -> Result<(u64, bool), IoError> {
        let extent = self.locate(io, offset, len).await?;
        let (node, at) = match (extent.found, self.backing()) {
            (Found::Zero { .. }, _) | (Found::Unallocated, None) => return Ok((extent.len, false)),
            (Found::Unallocated, Some(backing)) => (backing, offset),
            (Found::Data { host, .. }, _) => (self.data.get(), host),
            (Found::Compressed { .. } | Found::Invalid, _) => return Ok((extent.len, true)),
        };
        match node.length().checked_sub(at) {
            Some(rest) if rest > 0 => node.extent(io, at, extent.len.min(rest)).await,
            _ => Ok((extent.len, false)),
        }
    }

    /// Runs a request to its end.
    pub(in crate::node) async fn handle(&self, io: &Handle, request: Request, points: &Points) -> Outcome {
        let (kind, range) = (request.kind, request.offset..request.offset.saturating_add(request.len));
        if kind != Kind::Read && self.is_broken() {
            return (request.memory, Err(IoError::Io));
        }
        let outcome = self.run(io, request, points).await;
        if outcome.1 == Err(IoError::Io) {
            Box::pin(self.look_for_corruption(io, kind, range)).await;
        }
        outcome
    }

    async fn run(&self, io: &Handle, request: Request, points: &Points) -> Outcome {
        let (fua, offset, len) = (request.fua, request.offset, request.len);
        let (memory, result) = match request.kind {
            Kind::Read => return self.view().read(io, request).await,
            Kind::Write => self.write(io, request, points).await,
            Kind::Zero { unmap } => (request.memory, self.zero(io, offset, len, unmap, points).await),
            Kind::Discard => (request.memory, self.discard(io, offset, len, points).await),
            Kind::Flush => return (request.memory, self.flush(io, points).await),
        };
        match (fua, result) {
            (true, Ok(())) => (memory, self.flush(io, points).await),
            (_, result) => (memory, result),
        }
    }
}
