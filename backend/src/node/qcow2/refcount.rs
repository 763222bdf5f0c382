//! Reference counts of the clusters of an image's file: which are free, and taking and freeing them.
//!
//! Memory is the truth; [`Refcounts::write_back`] brings the file up to date. Writing more than what is stable needs is
//! harmless (a crash leaks clusters), writing less is not: whoever makes something stable that leads to a cluster writes
//! the counts back first, and frees a cluster only when nothing stable leads to it. Knows neither L2 tables nor guests.
//! Whoever takes or frees clusters has his turn; writing back goes on meanwhile.

mod blocks;
pub mod check;
mod claim;
mod raise;
mod repair;
mod reserved;
mod search;
mod state;
mod table;
mod tail;
mod width;
mod write_back;

pub use state::Fault;

use super::entry::Geometry;
use super::l2::metadata::Metadata;
use super::store::Store;
use crate::error::IoError;
use crate::range_lock::{Guard, RangeLock};
use crate::reactor::Handle;
use search::{Plan, Search, Step, Want};
use state::{Place, State, TableAt};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of refcount blocks that are kept in memory if nobody says otherwise.
const CACHE_SIZE: u64 = 1 << 20;

/// Blocks that are kept at least.
const LEAST_BLOCKS: u64 = 4;

/// QEMU's limit for a refcount table, in bytes.
const MOST_TABLE_BYTES: u64 = 8 << 20;

/// Why an image's reference counts cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no table, or it cannot be as long as the header says, or where.
    #[error("Could not initialize refcount handling: Invalid argument")]
    Table,
    /// It cannot be read.
    #[error("Could not initialize refcount handling: {0}")]
    Io(#[from] IoError),
}

/// Clusters in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Offset of the first in the file.
    pub host: u64,
    /// How many.
    pub clusters: u64,
    /// Nothing was ever written there: they read as zeroes once the file reaches that far.
    pub fresh: bool,
}

/// The refcount table that the header names.
pub(super) struct NamedTable<'a> {
    pub(super) offset: u64,
    pub(super) clusters: u64,
    _kept: Guard<'a>,
}

/// The reference counts of one image.
pub struct Refcounts {
    store: Store,
    /// Of those who take and free.
    turn: RangeLock,
    /// Of those who write back.
    writing: RangeLock,
    state: Mutex<State>,
}

impl Refcounts {
    /// Reads the refcount table at `table_offset`; blocks are read as they are needed.
    ///
    /// # Errors
    /// A table that is not where or what one can be; the storage's.
    pub async fn open(
        io: &Handle,
        store: Store,
        geometry: Geometry,
        table_offset: u64,
        table_clusters: u32,
    ) -> Result<Self, OpenError> {
        let length = store.node().length();
        let end = table_offset.checked_add(u64::from(table_clusters) << geometry.cluster_bits);
        if end.is_none_or(|end| end > length) {
            return Err(OpenError::Table);
        }
        Self::open_up_to(io, store, geometry, (table_offset, table_clusters), length).await
    }

    /// The same with blocks that end before `length`, for whoever only reads them; what of them and of the table is past
    /// the end of the file is zero.
    async fn open_up_to(
        io: &Handle,
        store: Store,
        geometry: Geometry,
        (table_offset, table_clusters): (u64, u32),
        length: u64,
    ) -> Result<Self, OpenError> {
        let clusters = u64::from(table_clusters);
        let bytes = clusters << geometry.cluster_bits;
        let in_place = table_offset != 0 && geometry.in_cluster(table_offset) == 0;
        if bytes == 0 || bytes > MOST_TABLE_BYTES || !in_place || table_offset.checked_add(bytes).is_none() {
            return Err(OpenError::Table);
        }
        let table = store.read_words(io, table_offset, crate::io::byte_count(bytes / 8)).await?;
        let at = TableAt { offset: table_offset, clusters };
        let state = Mutex::new(State::new(geometry, at, table, length, blocks_in(geometry, CACHE_SIZE)));
        Ok(Self { store, turn: RangeLock::default(), writing: RangeLock::default(), state })
    }

    /// Keeps at most about this many bytes of blocks in memory, four blocks at least.
    pub fn set_cache_size(&self, bytes: u64) {
        let mut state = self.state();
        let limit = blocks_in(state.geometry, bytes);
        state.blocks.set_limit(limit);
    }

    /// The table's offset and clusters, as the header has to name them when all is written back.
    pub fn table(&self) -> (u64, u64) {
        let state = self.state();
        state.tables.last().map_or((0, 0), |at| (at.offset, at.clusters))
    }

    /// The table that the header names, which it goes on to name until the guard is dropped.
    pub(super) async fn keep_table(&self) -> NamedTable<'_> {
        let kept = self.writing.lock(0..1).await;
        let named = self.state().tables.first().copied();
        let TableAt { offset, clusters } = named.unwrap_or(TableAt { offset: 0, clusters: 0 });
        NamedTable { offset, clusters, _kept: kept }
    }

    /// The offsets of all refcount blocks that can be one.
    pub fn blocks(&self) -> Vec<u64> {
        let state = self.state();
        let is_block = |region: &usize| !matches!(state.place(*region), Place::Nowhere | Place::Broken);
        (0..state.table.len()).filter(is_block).map(|region| state.entry(region)).collect()
    }

    /// Tells `metadata` of blocks and tables that are made, and how far the clusters reach that are taken.
    pub fn tell(&self, metadata: Arc<Metadata>) {
        self.state().metadata = metadata;
    }

    /// What was found to be wrong with the counts, once.
    pub fn take_fault(&self) -> Option<Fault> {
        self.state().fault.take()
    }

    /// These bytes are metadata: that their clusters are free is a [fault](Refcounts::take_fault), and none of them is
    /// handed out.
    pub fn protect(&self, bytes: Range<u64>) {
        let clusters = self.clusters(&bytes);
        self.state().protected.add(clusters);
    }

    /// Undoes [`Refcounts::protect`], before they are released.
    pub fn unprotect(&self, bytes: Range<u64>) {
        let clusters = self.clusters(&bytes);
        self.state().protected.remove(clusters);
    }

    /// Never hands these bytes' clusters out, whatever their count says. To be called before the first clusters are
    /// taken, or for some that were.
    pub fn reserve(&self, bytes: Range<u64>) {
        let clusters = self.clusters(&bytes);
        self.state().reserved.add(clusters);
    }

    /// Undoes [`Refcounts::reserve`], before they are released.
    pub fn unreserve(&self, bytes: Range<u64>) {
        let clusters = self.clusters(&bytes);
        self.state().reserved.remove(clusters);
    }

    /// The numbers of the clusters that these bytes are in.
    fn clusters(&self, bytes: &Range<u64>) -> Range<u64> {
        let geometry = self.state().geometry;
        bytes.start >> geometry.cluster_bits..geometry.clusters(bytes.end)
    }

    /// The reference count of the cluster at `host`.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] where the table is broken.
    pub async fn get(&self, io: &Handle, host: u64) -> Result<u64, IoError> {
        let _turn = self.turn.lock(0..1).await;
        let cluster = host >> self.state().geometry.cluster_bits;
        let region = self.state().locate(cluster).0;
        self.load(io, region, &(0..0)).await?;
        self.state().count(cluster).ok_or(IoError::Io)
    }

    /// The first cluster from `cluster` on that a block has a count of; those before it are free, however many they are.
    pub fn next_counted(&self, cluster: u64) -> Option<u64> {
        let state = self.state();
        let first = state.locate(cluster).0;
        let region = (first..state.table.len()).find(|region| state.entry(*region) != 0)?;
        Some(cluster.max((region as u64).saturating_mul(state.per_region())))
    }

    /// Takes clusters in a row, the first free ones that there are: at least one, at most `want`. Their count is 1 from
    /// now on. The file may not reach that far.
    ///
    /// # Errors
    /// The storage's; [`IoError::NoSpace`] when the image cannot be larger. Nothing was taken.
    pub async fn allocate(&self, io: &Handle, want: u64) -> Result<Run, IoError> {
        self.take(io, Want { least: 1, most: want.max(1) }).await
    }

    /// Takes exactly `count` (at least one) clusters in a row.
    ///
    /// # Errors
    /// As [`Refcounts::allocate`].
    pub async fn allocate_contiguous(&self, io: &Handle, count: u64) -> Result<Run, IoError> {
        let count = count.max(1);
        self.take(io, Want { least: count, most: count }).await
    }

    /// Lowers the counts of clusters in a row; returns, as ranges of bytes, those that are free now.
    ///
    /// # Errors
    /// The storage's; [`IoError::Io`] where a count is zero already: the image is corrupt. Clusters up to some block's
    /// end may have been released then.
    pub async fn release(&self, io: &Handle, host: u64, clusters: u64) -> Result<Vec<Range<u64>>, IoError> {
        self.make_room(io).await?;
        self.lower(io, host, clusters).await
    }

    /// Whether the file does not have all of this yet.
    pub fn is_dirty(&self) -> bool {
        self.state().is_dirty()
    }

    async fn lower(&self, io: &Handle, host: u64, clusters: u64) -> Result<Vec<Range<u64>>, IoError> {
        let cluster_bits = self.state().geometry.cluster_bits;
        let first = host >> cluster_bits;
        let end = first.checked_add(clusters).ok_or(IoError::Invalid)?;
        let mut free: Vec<Range<u64>> = Vec::new();
        let mut at = first;
        while at < end {
            let region = self.state().locate(at).0;
            let next = end.min((region as u64 + 1).saturating_mul(self.state().per_region()));
            let _turn = self.turn.lock(0..1).await;
            self.load(io, region, &(0..0)).await?;
            for cluster in self.state().lower(at..next)? {
                let bytes = cluster << cluster_bits..(cluster + 1) << cluster_bits;
                match free.last_mut().filter(|last| last.end == bytes.start) {
                    Some(last) => last.end = bytes.end,
                    None => free.push(bytes),
                }
            }
            at = next;
        }
        Ok(free)
    }

    /// Every count counts as changed, so that it is written with the next write-back.
    ///
    /// # Errors
    /// The storage's.
    pub async fn mark_dirty(&self, io: &Handle) -> Result<(), IoError> {
        let regions = self.state().regions();
        for region in 0..regions {
            self.make_room(io).await?;
            let _turn = self.turn.lock(0..1).await;
            self.load(io, region, &(0..0)).await?;
            self.state().mark_dirty(region);
        }
        Ok(())
    }

    async fn take(&self, io: &Handle, want: Want) -> Result<Run, IoError> {
        self.make_room(io).await?;
        let _turn = self.turn.lock(0..1).await;
        loop {
            let regions = self.state().regions();
            match self.search(io, want, regions).await? {
                Ok(plan) => {
                    self.reach(io, plan).await?;
                    return Ok(self.state().commit(plan));
                }
                Err(region) => self.grow_table(io, region, want).await?,
            }
        }
    }

    /// Finds clusters in the first `regions`, or the region after them where it would go on.
    async fn search(&self, io: &Handle, want: Want, regions: usize) -> Result<Result<Plan, usize>, IoError> {
        let mut search = Search::new(&self.state(), want, regions);
        loop {
            let step = search.step(&mut self.state())?;
            match step {
                Step::Found(plan) => return Ok(Ok(plan)),
                Step::PastTable(region) => return Ok(Err(region)),
                Step::Load(region) => {
                    let keep = search.keep(&self.state());
                    self.load(io, region, &keep).await?;
                }
            }
        }
    }

    /// Makes the file reach as far as the blocks of a plan.
    async fn reach(&self, io: &Handle, plan: Plan) -> Result<(), IoError> {
        let end = (plan.start + plan.blocks) << self.state().geometry.cluster_bits;
        if plan.blocks == 0 { Ok(()) } else { self.store.grow(io, end).await }
    }

    /// Has the block of a region in memory, if it has one; blocks of `keep` stay.
    async fn load(&self, io: &Handle, region: usize, keep: &Range<usize>) -> Result<(), IoError> {
        let place = self.state().place(region);
        let offset = match place {
            Place::Nowhere | Place::Here => return Ok(()),
            Place::Broken => return Err(self.state().broken_block(region)),
            Place::File(offset) => offset,
        };
        let cluster = self.state().geometry.cluster();
        let buf = self.store.read(io, offset, cluster).await?;
        self.state().blocks.add(region, buf.as_slice().to_vec(), keep);
        Ok(())
    }

    /// Blocks that changed cannot leave memory before they are written.
    async fn make_room(&self, io: &Handle) -> Result<(), IoError> {
        let full = self.state().blocks.are_too_many();
        if full { self.write_back(io).await } else { Ok(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn blocks_in(geometry: Geometry, bytes: u64) -> usize {
    crate::io::byte_count((bytes >> geometry.cluster_bits).max(LEAST_BLOCKS))
}

impl State {
    /// Takes what was found: nobody else has taken anything since.
    fn commit(&mut self, plan: Plan) -> Run {
        let mut blocks = plan.start..plan.start + plan.blocks;
        let regions = self.locate(plan.start).0..self.locate(plan.all().end - 1).0 + 1;
        for region in regions.clone() {
            if self.place(region) == Place::Nowhere
                && let Some(cluster) = blocks.next()
            {
                self.add_block(region, cluster);
            }
        }
        plan.all().for_each(|cluster| self.set(cluster, 1));
        for region in regions {
            let base = region as u64 * self.per_region();
            if plan.all().contains(&(base + self.lowest(region))) {
                self.set_lowest(region, (plan.all().end - base).min(self.per_region()));
            }
        }
        let taken = plan.for_caller();
        let fresh = self.take_fresh(&taken);
        Run { host: taken.start << self.geometry.cluster_bits, clusters: plan.clusters, fresh }
    }
}

#[cfg(test)]
mod tests;
