//! The options of driver `qcow2`.
//!
//! Knows its members, QEMU's defaults and what does not fit into them; what contradicts an image is found when the image
//! is read.

use std::path::PathBuf;
use tidemark_backend::node::options::{Backing, CrashSafe, Qcow2Options};

use super::options::{BlockdevRef, unsigned};
use crate::error::QmpError;
use crate::schema::{Null, qapi_alternate, qapi_enum, qapi_struct, qapi_union};

qapi_struct! {
    /// Options of driver `qcow2`.
    pub struct BlockdevOptionsQcow2 "BlockdevOptionsQcow2" {
        /// The node with the image.
        "file" file: BlockdevRef,
        /// The node that shows where the image has nothing; `null` for none. If absent, what the image's header names,
        /// which has to be a regular file below the directory of the image, or below one given by `--backing-dir`, with
        /// a format that the header names too. A node defined here is opened read-only.
        "backing" backing: Option<BlockdevRefOrNull>,
        /// The node with the guest's data, of an image that keeps it apart. If absent, what the image's header names,
        /// under the rules for `backing`.
        "data-file" data_file: Option<BlockdevRef>,
        /// Accepted without effect for images of version 3: reference counts are never written with each request.
        "lazy-refcounts" lazy_refcounts: Option<bool>,
        /// Whether what a guest discards is discarded in the file; as `discard` says if absent.
        "pass-discard-request" pass_discard_request: Option<bool>,
        /// Accepted without effect: the space of a deleted snapshot is used again.
        "pass-discard-snapshot" pass_discard_snapshot: Option<bool>,
        /// Accepted without effect: what is freed otherwise is used again, not discarded.
        "pass-discard-other" pass_discard_other: Option<bool>,
        /// Accepted without effect for images of version 3: what is discarded is always freed.
        "discard-no-unref" discard_no_unref: Option<bool>,
        /// Whether nothing is written into L2 tables that only snapshots have, either: if it says so, the L1 tables of
        /// all snapshots are read when the image is opened. Nothing is ever written into the header, other tables,
        /// reference counts, snapshot table or bitmap directory, whatever it says.
        "overlap-check" overlap_check: Option<Qcow2OverlapChecks>,
        /// Most bytes of both caches together.
        "cache-size" cache_size: Option<i64>,
        /// Most bytes of L2 tables in memory; enough for the disk, but no more than 64 MiB, if absent.
        "l2-cache-size" l2_cache_size: Option<i64>,
        /// Checked and without effect: tables are read whole.
        "l2-cache-entry-size" l2_cache_entry_size: Option<i64>,
        /// Most bytes of reference counts in memory; those of four clusters if absent.
        "refcount-cache-size" refcount_cache_size: Option<i64>,
        /// Accepted without effect: the caches keep what they have as long as there is room.
        "cache-clean-interval" cache_clean_interval: Option<i64>,
        /// What changes that bitmaps have recorded survive besides a clean end: `power` (that the power is cut: a journal
        /// beside the image, written when an area of 1 to 16 MiB is written to first), `process` (that the daemon is
        /// killed: a journal in memory) or `off` (neither, as in QEMU). `power` for images in regular files and `process`
        /// for others if absent, and it is no error then if there can be no journal.
        "x-crash-safe" x_crash_safe: Option<XCrashSafe>,
        /// The file of the journal that `power` needs; the image's name with `.journal` if absent. An image that is no
        /// regular file needs it.
        "x-journal" x_journal: Option<String>,
        /// How the image is encrypted. Encrypted images are not supported, and others are refused with it.
        "encrypt" encrypt: Option<BlockdevQcow2Encryption>,
    }
}

qapi_enum! {
    /// What recorded changes survive.
    pub enum XCrashSafe "XCrashSafe" {
        /// A power cut.
        Power = "power",
        /// The end of the process.
        Process = "process",
        /// Neither.
        Off = "off",
    }
}

impl From<XCrashSafe> for CrashSafe {
    fn from(wanted: XCrashSafe) -> Self {
        match wanted {
            XCrashSafe::Power => Self::Power,
            XCrashSafe::Process => Self::Process,
            XCrashSafe::Off => Self::Off,
        }
    }
}

qapi_alternate! {
    /// A node, or none.
    pub enum BlockdevRefOrNull "BlockdevRefOrNull" {
        /// A node that is opened and closed together with the one it is defined in.
        "definition" Definition(Box<super::BlockdevOptions>): Object,
        /// A node's name; an empty one is as good as `null`.
        "reference" Reference(String): String,
        /// No node.
        "null" Nothing(Null): Null,
    }
}

qapi_alternate! {
    /// Which structures nothing is written into by mistake.
    pub enum Qcow2OverlapChecks "Qcow2OverlapChecks" {
        /// Each by itself.
        "flags" Flags(Qcow2OverlapCheckFlags): Object,
        /// A set of them.
        "mode" Mode(Qcow2OverlapCheckMode): String,
    }
}

qapi_enum! {
    /// Sets of structures.
    pub enum Qcow2OverlapCheckMode "Qcow2OverlapCheckMode" {
        /// None.
        None = "none",
        /// Those whose place never changes.
        Constant = "constant",
        /// Those that take no reading.
        Cached = "cached",
        /// All.
        All = "all",
    }
}

qapi_struct! {
    /// Structures; those of the template if absent.
    pub struct Qcow2OverlapCheckFlags "Qcow2OverlapCheckFlags" {
        /// Where to begin.
        "template" template: Option<Qcow2OverlapCheckMode>,
        /// The header.
        "main-header" main_header: Option<bool>,
        /// The active L1 table.
        "active-l1" active_l1: Option<bool>,
        /// The active L2 tables.
        "active-l2" active_l2: Option<bool>,
        /// The refcount table.
        "refcount-table" refcount_table: Option<bool>,
        /// The refcount blocks.
        "refcount-block" refcount_block: Option<bool>,
        /// The snapshot table.
        "snapshot-table" snapshot_table: Option<bool>,
        /// The L1 tables of snapshots.
        "inactive-l1" inactive_l1: Option<bool>,
        /// The L2 tables of snapshots.
        "inactive-l2" inactive_l2: Option<bool>,
        /// The bitmap directory.
        "bitmap-directory" bitmap_directory: Option<bool>,
    }
}

qapi_union! {
    /// How an image is encrypted.
    pub struct BlockdevQcow2Encryption "BlockdevQcow2Encryption" {
        /// The format.
        "format" format: BlockdevQcow2EncryptionFormat,
    }
    /// The members of the format.
    pub enum BlockdevQcow2EncryptionOptions by "format" format: BlockdevQcow2EncryptionFormat {
        /// `aes`
        Aes(QCryptoBlockOptionsQCow),
        /// `luks`
        Luks(QCryptoBlockOptionsLUKS),
    }
}

qapi_enum! {
    /// Formats of encryption.
    pub enum BlockdevQcow2EncryptionFormat "BlockdevQcow2EncryptionFormat" {
        /// That of old images.
        Aes = "aes",
        /// LUKS.
        Luks = "luks",
    }
}

qapi_struct! {
    /// Members of encryption with AES.
    pub struct QCryptoBlockOptionsQCow "QCryptoBlockOptionsQCow" {
        /// The object with the key.
        "key-secret" key_secret: Option<String>,
    }
}

qapi_struct! {
    /// Members of encryption with LUKS.
    pub struct QCryptoBlockOptionsLUKS "QCryptoBlockOptionsLUKS" {
        /// The object with the key.
        "key-secret" key_secret: Option<String>,
    }
}

impl Qcow2OverlapChecks {
    /// Whether L2 tables that only snapshots have are among them.
    fn has_inactive_l2(&self) -> bool {
        match self {
            Self::Mode(mode) => *mode == Qcow2OverlapCheckMode::All,
            Self::Flags(flags) => flags.inactive_l2.unwrap_or(flags.template == Some(Qcow2OverlapCheckMode::All)),
        }
    }
}

impl TryFrom<BlockdevOptionsQcow2> for Qcow2Options {
    type Error = QmpError;

    fn try_from(options: BlockdevOptionsQcow2) -> Result<Self, QmpError> {
        let interval = options.cache_clean_interval.unwrap_or(0);
        u32::try_from(interval).map_err(|_| QmpError::generic("Cache clean interval too big"))?;
        let bytes = |name: &str, value: Option<i64>| value.map(|value| unsigned(name, value)).transpose();
        Ok(Self {
            file: options.file.try_into()?,
            backing: options.backing.map_or(Ok(Backing::FromHeader), TryInto::try_into)?,
            data_file: options.data_file.map(TryInto::try_into).transpose()?,
            lazy_refcounts: options.lazy_refcounts,
            pass_discard_request: options.pass_discard_request,
            discard_no_unref: options.discard_no_unref.unwrap_or(false),
            cache_size: bytes("cache-size", options.cache_size)?,
            l2_cache_size: bytes("l2-cache-size", options.l2_cache_size)?,
            l2_cache_entry_size: bytes("l2-cache-entry-size", options.l2_cache_entry_size)?,
            refcount_cache_size: bytes("refcount-cache-size", options.refcount_cache_size)?,
            guards_inactive_l2: options.overlap_check.is_some_and(|checks| checks.has_inactive_l2()),
            encrypt: options.encrypt.map(|encrypt| encrypt.format.text()),
            crash_safe: options.x_crash_safe.map(CrashSafe::from),
            change_journal: options.x_journal.map(PathBuf::from),
            bitmaps_only: false,
            snapshot: None,
        })
    }
}

impl TryFrom<BlockdevRefOrNull> for Backing {
    type Error = QmpError;

    fn try_from(reference: BlockdevRefOrNull) -> Result<Self, QmpError> {
        Ok(match reference {
            BlockdevRefOrNull::Nothing(_) => Self::None,
            BlockdevRefOrNull::Reference(name) if name.is_empty() => Self::None,
            BlockdevRefOrNull::Reference(name) => Self::Node(BlockdevRef::Reference(name).try_into()?),
            BlockdevRefOrNull::Definition(options) => Self::Node(BlockdevRef::Definition(options).try_into()?),
        })
    }
}
