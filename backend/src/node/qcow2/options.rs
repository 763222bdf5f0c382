//! What an operator may say of an image, and what follows from it for an image with a given header.
//!
//! Names and defaults are those of QEMU's `BlockdevOptionsQcow2`, and so are the texts for what contradicts each other.
//! Members that only say how QEMU should do what is done here otherwise anyway are checked and have no effect.

use super::changes::CrashSafe;
use super::header::Header;
use super::journal::Place;
use super::open::Options;
use crate::error::GraphError;
use crate::node::options::ChildRef;
use std::path::PathBuf;

/// Bytes of L2 tables in memory at most, if nothing is said: what 512 GiB take in clusters of 64 KiB.
const L2_CACHE_BYTES: u64 = 64 << 20;
/// Clusters of refcount blocks in memory, if nothing is said, and at least where there is room.
const REFCOUNT_CACHE_CLUSTERS: u64 = 4;
/// Bytes of the smallest piece of an L2 table that QEMU reads.
const L2_ENTRY_BYTES: u64 = 512;

/// Members of driver `qcow2`.
#[derive(Clone, Debug)]
pub struct Qcow2Options {
    /// `file`: the node with the metadata, and with the clusters unless they have a file of their own.
    pub file: ChildRef,
    /// `backing`.
    pub backing: Backing,
    /// `data-file`: the node with the clusters of an image that keeps them apart; by its name in the header if absent.
    pub data_file: Option<ChildRef>,
    /// `lazy-refcounts`: checked against the image's version; reference counts are never written with each request.
    pub lazy_refcounts: Option<bool>,
    /// `pass-discard-request`: what a guest discards is discarded in the file; as `discard` says if absent.
    pub pass_discard_request: Option<bool>,
    /// `discard-no-unref`: checked against the image's version.
    pub discard_no_unref: bool,
    /// `cache-size`: bytes of `l2-cache-size` and `refcount-cache-size` together.
    pub cache_size: Option<u64>,
    /// `l2-cache-size` in bytes.
    pub l2_cache_size: Option<u64>,
    /// `l2-cache-entry-size` in bytes: checked; whole tables are read.
    pub l2_cache_entry_size: Option<u64>,
    /// `refcount-cache-size` in bytes.
    pub refcount_cache_size: Option<u64>,
    /// `overlap-check`: nothing leads into L2 tables that only snapshots have. Other metadata is guarded in any case.
    pub guards_inactive_l2: bool,
    /// `encrypt`: the format that the image is said to be encrypted in.
    pub encrypt: Option<&'static str>,
    /// `x-crash-safe`: what its bitmaps survive.
    pub crash_safe: Option<CrashSafe>,
    /// `x-journal`: the file of its change journal; beside the image if absent.
    pub change_journal: Option<PathBuf>,
    /// Nobody will write to the disk, and only the image's bitmaps are changed: what the file has of them is to be
    /// believed all the time. No member of QEMU's.
    pub bitmaps_only: bool,
    /// The disk as it was at this internal snapshot, by its id or else its name, to be read only. No member of QEMU's.
    pub snapshot: Option<String>,
}

/// `backing`.
#[derive(Clone, Debug)]
pub enum Backing {
    /// Absent: what the header names, if the rules for names in headers let it.
    FromHeader,
    /// `null`: nothing.
    None,
    /// A node.
    Node(ChildRef),
}

impl Qcow2Options {
    /// An image over this node, of which nothing else is said.
    pub fn new(file: ChildRef) -> Self {
        Self {
            file,
            backing: Backing::FromHeader,
            data_file: None,
            lazy_refcounts: None,
            pass_discard_request: None,
            discard_no_unref: false,
            cache_size: None,
            l2_cache_size: None,
            l2_cache_entry_size: None,
            refcount_cache_size: None,
            guards_inactive_l2: false,
            encrypt: None,
            crash_safe: None,
            change_journal: None,
            bitmaps_only: false,
            snapshot: None,
        }
    }

    /// What an image with this header is opened with. `unmap` is whether discards reach the storage.
    ///
    /// # Errors
    /// What contradicts the image or itself, with QEMU's texts.
    pub fn for_image(&self, header: &Header, read_only: bool, unmap: bool) -> Result<Options, GraphError> {
        let refuse = |text: String| Err(GraphError::Options(text));
        if let Some(format) = self.encrypt {
            return refuse(format!("No encryption in image header, but options specified format '{format}'"));
        }
        let cluster = header.geometry().cluster();
        let entry = self.l2_cache_entry_size.unwrap_or(cluster);
        if !entry.is_power_of_two() || !(L2_ENTRY_BYTES..=cluster).contains(&entry) {
            return refuse(format!(
                "L2 cache entry size must be a power of two between {L2_ENTRY_BYTES} and the cluster size ({cluster})"
            ));
        }
        let (l2_cache_bytes, refcount_cache_bytes) = self.caches(header.size, cluster)?;
        if refcount_cache_bytes / cluster > i32::MAX.cast_unsigned().into() {
            return refuse("Refcount cache size too big".into());
        }
        if self.lazy_refcounts == Some(true) && header.version < 3 {
            return refuse(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level".to_owned(),
            );
        }
        if self.discard_no_unref && header.version < 3 {
            return refuse("discard-no-unref is only supported since qcow2 version 3".into());
        }
        let pass_discard = self.pass_discard_request.unwrap_or(unmap);
        let journal = Some(Place::default());
        Ok(Options { read_only, l2_cache_bytes, refcount_cache_bytes, pass_discard, journal, changes: None })
    }

    /// Bytes of L2 tables and of refcount blocks in memory: what was asked for, but no more tables than the disk has.
    fn caches(&self, size: u64, cluster: u64) -> Result<(u64, u64), GraphError> {
        let refuse = |text: &str| Err(GraphError::Options(text.into()));
        let all = (size.div_ceil(cluster) * 8).next_multiple_of(cluster);
        let least = REFCOUNT_CACHE_CLUSTERS * cluster;
        let Some(both) = self.cache_size else {
            // No more tables are kept than there are, which may become more.
            let tables = self.l2_cache_size.unwrap_or(L2_CACHE_BYTES);
            return Ok((tables, self.refcount_cache_size.unwrap_or(least)));
        };
        match (self.l2_cache_size, self.refcount_cache_size) {
            (Some(_), Some(_)) => {
                refuse("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time")
            }
            (Some(tables), _) if tables > both => refuse("l2-cache-size may not exceed cache-size"),
            (_, Some(counts)) if counts > both => refuse("refcount-cache-size may not exceed cache-size"),
            (Some(tables), None) => Ok((tables.min(all), both - tables)),
            (None, Some(counts)) => Ok(((both - counts).min(all), counts)),
            (None, None) if both >= all.saturating_add(least) => Ok((all, both - all)),
            (None, None) => Ok((both - both.min(least), both.min(least))),
        }
    }
}
