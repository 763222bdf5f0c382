//! Whether an image's reference counts are right: all references are counted again and compared with what the file says.
//!
//! Reads the file only, so what is in memory has to be written back before; changes nothing. Counts and messages are
//! those of `qemu-img check` (10.0). A cluster takes memory only if something refers to it, and messages have a limit.

mod compare;
mod contested;
mod references;
mod walk;

use super::{OpenError, Refcounts};
use crate::error::IoError;
use crate::node::qcow2::entry::Geometry;
use crate::node::qcow2::header::{BitmapsExtension, Header};
use crate::node::qcow2::snapshot::TableError;
use crate::node::qcow2::store::Store;
use crate::reactor::Handle;
pub use contested::Contested;
use contested::L2Tables;
pub(super) use references::References;
use std::collections::BTreeMap;

/// Messages that are kept; what they are about is counted in any case.
const MOST_MESSAGES: usize = 10_000;

/// Where an image's metadata is, as its header says.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// The image's numbers.
    pub geometry: Geometry,
    /// Bytes of the guest's disk.
    pub size: u64,
    /// Offset of the active L1 table.
    pub l1_offset: u64,
    /// Its entries.
    pub l1_entries: u32,
    /// Offset of the refcount table.
    pub reftable_offset: u64,
    /// Its clusters.
    pub reftable_clusters: u32,
    /// Offset of the snapshot table.
    pub snapshots_offset: u64,
    /// How many snapshots it has.
    pub snapshots: u32,
    /// The bitmap directory, if the image has one that counts.
    pub bitmaps: Option<Directory>,
}

impl From<&Header> for Parts {
    fn from(header: &Header) -> Self {
        Self {
            geometry: header.geometry(),
            size: header.size,
            l1_offset: header.l1_offset,
            l1_entries: header.l1_entries,
            reftable_offset: header.reftable_offset,
            reftable_clusters: header.reftable_clusters,
            snapshots_offset: header.snapshots_offset,
            snapshots: header.snapshots,
            bitmaps: header.bitmaps.map(|BitmapsExtension { count, size, offset }| Directory { count, offset, size }),
        }
    }
}

/// Why an image cannot be checked to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The refcount table is not what one can be.
    #[error(transparent)]
    Refcounts(#[from] OpenError),
    /// There are snapshots, but who knows which.
    #[error("ERROR failed to read the snapshot table: {0}")]
    Snapshots(#[from] TableError),
    /// The storage's.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// The bitmap directory.
#[derive(Clone, Copy, Debug)]
pub struct Directory {
    /// How many bitmaps.
    pub count: u32,
    /// Its offset.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

/// What was found; names are those of `qemu-img check --output json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Where the last cluster in use ends.
    pub image_end_offset: u64,
    /// Clusters of the guest's disk.
    pub total_clusters: u64,
    /// What could not be looked at.
    pub check_errors: u64,
    /// What may destroy data.
    pub corruptions: u64,
    /// Clusters that are counted more often than something refers to them.
    pub leaks: u64,
    /// Guest clusters with space in the file.
    pub allocated_clusters: u64,
    /// Of these, compressed ones.
    pub compressed_clusters: u64,
    /// Of these, those that do not follow the one before.
    pub fragmented_clusters: u64,
    /// One for each corruption, error and leak, in QEMU's words.
    pub errors: Vec<String>,
    /// What a repair cannot write to.
    pub contested: Contested,
}

impl CheckReport {
    fn corruption(&mut self, message: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.say(message);
    }

    fn say(&mut self, message: impl FnOnce() -> String) {
        if self.errors.len() < MOST_MESSAGES {
            self.errors.push(message());
        }
    }
}

/// A check under way.
struct Check<'a> {
    io: &'a Handle,
    store: Store,
    parts: Parts,
    refcounts: Refcounts,
    references: References,
    report: CheckReport,
    /// L2 tables looked at.
    tables: u64,
    l2_tables: L2Tables,
    /// How many entries of the refcount table lead to a block, by its offset.
    block_entries: BTreeMap<u64, u32>,
}

/// Checks the image in `store`, to which nobody writes meanwhile.
///
/// # Errors
/// See [`CheckError`].
pub async fn check(io: &Handle, store: Store, parts: Parts) -> Result<CheckReport, CheckError> {
    let mut check = Check::new(io, store, parts).await?;
    check.report.total_clusters = parts.geometry.clusters(parts.size);
    check.run().await?;
    check.report.contested = check.contest();
    Ok(check.report)
}

/// Counts the references to all clusters of an image, without a look at the counts that it has.
///
/// # Errors
/// As [`check`]; [`IoError::Io`] if not all of it could be looked at.
pub(in crate::node::qcow2) async fn count(io: &Handle, store: Store, parts: Parts) -> Result<Counted, CheckError> {
    let mut check = Check::new(io, store, parts).await?;
    check.walk().await?;
    if check.report.check_errors > 0 {
        return Err(CheckError::Io(IoError::Io));
    }
    let contested = check.contest();
    let clusters = if check.references.leave_out() { check.clusters() } else { u64::MAX };
    Ok(Counted { references: check.references, clusters, wrong: check.report.errors.into_iter().next(), contested })
}

/// What was counted.
pub(in crate::node::qcow2) struct Counted {
    /// References by cluster.
    pub(in crate::node::qcow2::refcount) references: References,
    /// Clusters of which it is known: not those past the end of the file, if something refers to any there.
    pub(in crate::node::qcow2::refcount) clusters: u64,
    /// The first thing that is wrong with the image, counts left aside.
    pub(in crate::node::qcow2) wrong: Option<String>,
    /// What a repair must not write to. That blocks are there is not counted.
    pub(in crate::node::qcow2) contested: Contested,
}

impl Counted {
    /// Whether nothing else refers to the cluster at this offset; `None` where that is not known.
    pub(in crate::node::qcow2) fn is_alone(&self, geometry: Geometry, host: u64) -> Option<bool> {
        let cluster = host >> geometry.cluster_bits;
        (cluster < self.clusters).then(|| self.references.get(cluster) == 1)
    }
}

impl<'a> Check<'a> {
    async fn new(io: &'a Handle, store: Store, parts: Parts) -> Result<Self, OpenError> {
        let at = (parts.reftable_offset, parts.reftable_clusters);
        let end = parts.geometry.clusters(store.node().length()).saturating_mul(parts.geometry.cluster());
        let refcounts = Refcounts::open_up_to(io, store.clone(), parts.geometry, at, end).await?;
        let references = References::new(parts.geometry, store.node().length());
        let (report, l2_tables, block_entries) = Default::default();
        Ok(Self { io, store, parts, refcounts, references, report, tables: 0, l2_tables, block_entries })
    }

    async fn run(&mut self) -> Result<(), CheckError> {
        self.walk().await?;
        self.compare().await?;
        Ok(self.check_copied(self.parts.l1_offset, self.parts.l1_entries).await?)
    }

    /// Counts all references.
    async fn walk(&mut self) -> Result<(), CheckError> {
        let snapshots = self.read_snapshots().await?;
        self.refer(0, self.parts.geometry.cluster());
        self.walk_l1(self.parts.l1_offset, self.parts.l1_entries, true).await?;
        self.walk_snapshots(&snapshots).await?;
        self.walk_bitmaps().await?;
        Ok(self.walk_refcount_table().await?)
    }

    /// Whether one more L2 table may be looked at: entries of a broken image may lead to one again and again, those of
    /// a sound one to as many as the file has room for, once from the disk and once from each snapshot.
    fn may_walk_table(&mut self) -> bool {
        let clusters = self.parts.geometry.clusters(self.store.node().length());
        let most = clusters.saturating_mul(1 + u64::from(self.parts.snapshots).min(clusters));
        self.tables += 1;
        if self.tables == most.saturating_add(1) {
            self.report.check_errors += 1;
            self.report.say(|| "ERROR more L2 tables are referred to than the file has room for".to_owned());
        }
        self.tables <= most
    }

    /// Counts a reference to each cluster that these bytes are in.
    fn refer(&mut self, offset: u64, len: u64) {
        self.references.add(offset, len, &mut self.report);
    }

    /// Bytes of the file, zeroes past its end.
    async fn read_words(&self, offset: u64, count: u64) -> Result<Vec<u64>, IoError> {
        let length = self.store.node().length();
        let inside = length.saturating_sub(offset).min(count * 8) / 8;
        let mut words = match inside {
            0 => Vec::new(),
            _ => self.store.read_words(self.io, offset, crate::io::byte_count(inside)).await?,
        };
        words.resize(crate::io::byte_count(count), 0);
        Ok(words)
    }
}
