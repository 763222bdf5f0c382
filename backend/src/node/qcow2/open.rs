//! Opening and closing an image.
//!
//! Nothing is believed that was not checked: the header by its parser, tables when they are read. What a program may
//! not know of the image is cleared before the first write, and what says that the image is whole is set last.

use super::bitmaps::{self, LoadError};
use super::changes::{self, Changes, ChangesOptions};
use super::compressed::pack::Packer;
use super::compressed::{Inflater, Method};
use super::corruption::Soundness;
use super::freed::Quarantine;
use super::guarded;
use super::header::{Compression, Header, HeaderError, PREFIX, bits};
use super::image::Image;
use super::journal::tie::{self, Tie};
use super::journal::{Journal, Place, path_of};
use super::l2::{L1, Tables};
use super::own_header::{ChangeError, OwnHeader};
use super::refcount::check::Counted;
use super::refcount::{self, Refcounts};
use super::repair;
use super::reserve::Reserve;
use super::settling::Settling;
use super::snapshot::{SnapshotError, SnapshotTable, TableError};
use super::store::Store;
use super::writeback::WriteBack;
use crate::error::IoError;
use crate::io::Buf;
use crate::node::Node;
use crate::node::link::{Link, MaybeLink};
use crate::node::points::Points;
use crate::range_lock::RangeLock;
use crate::reactor::Handle;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

/// Why an image cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The header cannot be used.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The reference counts cannot.
    #[error(transparent)]
    Refcounts(#[from] refcount::OpenError),
    /// It was not closed after somebody wrote to it who keeps reference counts until then, and they cannot be repaired.
    #[error("Could not repair dirty image: {0}")]
    Repair(String),
    /// Its persistent bitmaps cannot be loaded.
    #[error(transparent)]
    Bitmaps(#[from] LoadError),
    /// Its snapshots cannot be read.
    #[error(transparent)]
    Snapshots(#[from] TableError),
    /// The one that was asked for cannot be.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The L1 tables of its snapshots are too long to guard all they lead to.
    #[error("The snapshots have more L1 tables than can be kept in mind for overlap-check.inactive-l2: leave it off")]
    InactiveTables,
    /// Part of it cannot be read.
    #[error("Could not read {0}: {1}")]
    Read(&'static str, IoError),
    /// Its journal is there and cannot be read: to go on without would lose what a guest was told is there.
    #[error("Could not open its journal {0}: try again, or remove that file and lose what was not flushed")]
    Journal(String),
    /// A change journal was asked for and there is none, or what it had cannot be stored.
    #[error("Could not keep a change journal: {0}")]
    Changes(String),
    /// What was noted in its journal cannot be written.
    #[error("Could not write back what its journal has: {0}")]
    Recover(IoError),
    /// What has to be said before the first write cannot be.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// What an image is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nothing is written.
    pub read_only: bool,
    /// Most bytes of L2 tables in memory.
    pub l2_cache_bytes: u64,
    /// Most bytes of refcount blocks in memory.
    pub refcount_cache_bytes: u64,
    /// What a guest discards is discarded in the file.
    pub pass_discard: bool,
    /// Where changes are noted that the file does not have, if they are to outlive the process.
    pub journal: Option<Place>,
    /// How its bitmaps are kept from being lost in a crash, if they are.
    pub changes: Option<ChangesOptions>,
}

/// The nodes an image is made of.
#[derive(Clone)]
pub struct Files {
    /// With the metadata, and the guest's clusters if there is no `data`.
    pub file: Arc<Node>,
    /// The external data file.
    pub data: Option<Arc<Node>>,
    /// What shows where the image has nothing.
    pub backing: Option<Arc<Node>>,
}

/// Reads the header of an image that is to be opened.
///
/// # Errors
/// The storage's; what is wrong with the header, or with where its tables are.
pub async fn read_header(io: &Handle, file: &Arc<Node>) -> Result<Header, OpenError> {
    Ok(Header::parse(first_cluster(io, file).await?.as_slice(), file.length())?)
}

/// Reads the header of an image that is to be told of, whatever is left of its tables.
///
/// # Errors
/// The storage's; what is wrong with the header.
pub async fn look_at_header(io: &Handle, file: &Arc<Node>) -> Result<Header, OpenError> {
    Ok(Header::read(first_cluster(io, file).await?.as_slice(), file.length())?)
}

/// As much of the first cluster as there is of a file that begins as an image does.
async fn first_cluster(io: &Handle, file: &Arc<Node>) -> Result<Buf, OpenError> {
    let store = Store::new(file.clone());
    let length = file.length();
    let read = |len: u64| {
        let store = &store;
        async move { store.read(io, 0, len.min(length)).await.map_err(|error| OpenError::Read("qcow2 header", error)) }
    };
    if length < PREFIX as u64 {
        return Err(HeaderError::Magic.into());
    }
    let prefix = read(512).await?;
    read(Header::cluster_size(prefix.as_slice())?).await
}

/// The header of an image as it was at an internal snapshot, by its id or else its name.
///
/// # Errors
/// The table of snapshots cannot be read; there is no such snapshot, or it cannot be read.
pub async fn header_at(io: &Handle, file: &Arc<Node>, header: &Header, snapshot: &str) -> Result<Header, OpenError> {
    let table = SnapshotTable::of(io, &Store::new(file.clone()), header).await?;
    Ok(table.find(snapshot)?.header(header, file.length())?)
}

fn method(compression: Compression) -> Method {
    match compression {
        Compression::Zlib => Method::Zlib,
        Compression::Zstd => Method::Zstd,
    }
}

/// What a change journal has of an image that is to be written; else why there is nothing.
async fn find_changes(
    io: &Handle,
    header: &Header,
    file: &Path,
    options: &Options,
) -> Result<changes::Recovered, String> {
    match &options.changes {
        Some(changes) if !options.read_only => {
            let found = changes::find(io, header, file, changes, options.journal.as_ref()).await;
            found.map_err(|reason| format!("{reason}; remove them and begin with a full backup"))
        }
        _ => Err("it was not closed, and nothing is recovered as long as it is only read".to_owned()),
    }
}

impl Image {
    /// Opens the image with this header. If it can be written to, its bitmaps are in use from now on.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(io: &Handle, header: &Header, files: Files, options: &Options) -> Result<Self, OpenError> {
        let image = Self::open_as_is(io, header, files, options).await?;
        if !options.read_only {
            image.begin_recording(io).await?;
        }
        Ok(image)
    }

    /// Opens the image with this header for whoever changes no more than its bitmaps: what the file has of them stays
    /// as it is until others are stored.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_as_is(io: &Handle, header: &Header, files: Files, options: &Options) -> Result<Self, OpenError> {
        let geometry = header.geometry();
        let store = Store::new(files.file.clone());
        if !options.read_only {
            header.writable()?;
        }
        let (at, clusters) = (header.reftable_offset, header.reftable_clusters);
        let refcounts = Refcounts::open(io, store.clone(), geometry, at, clusters).await?;
        refcounts.set_cache_size(options.refcount_cache_bytes);
        let mut counted = None;
        if header.incompatible & bits::INCOMPATIBLE_DIRTY != 0 && !options.read_only {
            counted = Some(Box::pin(repair::count_first(io, &store, header, &refcounts)).await?);
        }
        let snapshot_table = SnapshotTable::of(io, &store, header).await?;
        let snapshots = guarded::snapshots(&snapshot_table, geometry, files.file.length());
        let metadata = Arc::new(guarded::known(header, &refcounts, &snapshots, files.file.length()));
        refcounts.tell(metadata.clone());
        let data = files.data.map_or_else(|| store.link().clone(), |data| Arc::new(Link::new(data)));
        let l1 = L1 { offset: header.l1_offset, entries: header.l1_entries as usize };
        let cache = options.l2_cache_bytes;
        let opened = Tables::open(io, store.clone(), geometry, l1, cache, metadata).await;
        let tables = opened.map_err(|error| OpenError::Read("L1 table", error))?;
        guarded::protect(header, &refcounts, &snapshots, &tables);
        let file = path_of(&files.file).unwrap_or_default();
        let found = find_changes(io, header, &file, options).await;
        let recovered = found.as_ref().ok();
        let bitmaps = bitmaps::load(io, &store, header, tables.metadata(), &refcounts, recovered).await?;
        let changes = Changes::new(options.changes.clone(), found);
        changes::tell_disbelief(&file, &bitmaps.lost(), changes.disbelief());
        if changes::is_changed(header, &data.get()) {
            bitmaps.distrust(files.file.name());
        }
        let l1_in_file = (0..tables.l1_entries()).map(|index| tables.l1(index)).collect();
        let image = Self {
            store,
            data,
            backing: MaybeLink::new(files.backing),
            settling: Settling::default(),
            keeping: AtomicUsize::new(0),
            geometry,
            l1_offset: AtomicU64::new(header.l1_offset),
            tables,
            inflater: Inflater::new(method(header.compression)),
            packer: Packer::default(),
            refcounts,
            reserve: Reserve::default(),
            clusters: RangeLock::default(),
            table_turns: RangeLock::default(),
            freed: Quarantine::default(),
            writeback: WriteBack::new(l1_in_file),
            journal: ArcSwapOption::empty(),
            punches: AtomicBool::new(options.pass_discard),
            read_only: AtomicBool::new(options.read_only),
            soundness: Soundness::default(),
            size: AtomicU64::new(header.size),
            header: OwnHeader::new(header.clone()),
            snapshot_table: ArcSwap::from_pointee(snapshot_table),
            unsettled: AtomicBool::new(false),
            bitmaps,
            changes,
            holds: Mutex::default(),
        };
        if !options.read_only {
            image.begin(io, options.journal.as_ref(), counted).await?;
        }
        Ok(image)
    }

    /// Before the first write, with its references if they are counted: the image is sound, and says what is true from then on.
    pub(super) async fn begin(
        &self,
        io: &Handle,
        place: Option<&Place>,
        counted: Option<Counted>,
    ) -> Result<(), OpenError> {
        if self.header().incompatible & bits::INCOMPATIBLE_DIRTY != 0 {
            Box::pin(self.repair(io, counted)).await?;
        }
        self.begin_writing(io, place).await?;
        Ok(self.forget_stale_bitmaps(io).await?)
    }

    /// Says what is true from the first write on: features that are not known here are gone, journals may be needed.
    async fn begin_writing(&self, io: &Handle, place: Option<&Place>) -> Result<(), OpenError> {
        let known = bits::AUTOCLEAR_BITMAPS | bits::AUTOCLEAR_RAW_DATA;
        let features = self.header().autoclear & known;
        let room = self.changes.room();
        let place = place
            .filter(|_| self.header().version >= 3 && !self.geometry.extended)
            .map(|place| Place { changes: room, ..place.clone() });
        let last = match &place {
            Some(place) => self.take_over(io, place).await?,
            None => None,
        };
        let number = tie::number();
        let journal = place.as_ref().and_then(|place| self.make_journal(place, number));
        // What goes with the new number is there before the header has it.
        let changes = self.begin_changes(io, number, journal.as_ref()).await?;
        let tie = match (&journal, changes) {
            (None, None) => Tie::default(),
            (journal, changes) => Tie { number, tables: journal.is_some(), changes, data_left: false },
        };
        if self.header().autoclear != features || tie != Tie::default() {
            self.change_header(io, |header| {
                header.autoclear = features;
                header.set_tie(tie);
            })
            .await?;
        }
        self.changes_named(io).await;
        self.journal.store(journal.map(Arc::new));
        last.iter().for_each(Journal::remove);
        self.remove_last_changes();
        Ok(())
    }

    /// Makes everything stable and gives back what was taken ahead. Nobody may be using the image any more.
    ///
    /// # Errors
    /// The storage's; then the image leaks clusters or, after a failed flush, lacks what was not flushed before.
    pub async fn close(&self, io: &Handle, points: &Points) -> Result<(), IoError> {
        if self.is_read_only() || self.is_broken() {
            return Ok(());
        }
        self.stop_packing(io).await?;
        for run in self.reserve.drain() {
            self.refcounts.release(io, run.host, run.clusters).await?;
        }
        // The first gives back what was freed; the second says so in the file.
        self.flush(io, points).await?;
        self.flush(io, points).await?;
        self.end_journal(io, self.tie_to_leave()).await?;
        self.remove_changes();
        Ok(())
    }
}
