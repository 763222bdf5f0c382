//! The arguments of `blockdev-create`.
//!
//! Knows QEMU's defaults, and what is wrong before there is a job; all else is the job's.

use tidemark_backend::graph::create::{CreateFile, CreateImage, Creation, FilePreallocation};
use tidemark_backend::node::qcow2::create::{CreateOptions, Preallocation};
use tidemark_backend::node::qcow2::header::Compression;

use super::image::Qcow2CompressionType;
use super::options::{BlockdevDriver, BlockdevRef};
use crate::error::QmpError;
use crate::schema::{Empty, Size, qapi_enum, qapi_struct, qapi_union};

qapi_struct! {
    /// Arguments of `blockdev-create`.
    pub struct BlockdevCreate "blockdev-create-arg" {
        /// The job's id: a letter, then letters, digits, `-`, `.` and `_`.
        "job-id" job_id: String,
        /// What to make.
        "options" options: BlockdevCreateOptions,
    }
}

qapi_union! {
    /// What to make.
    pub struct BlockdevCreateOptions "BlockdevCreateOptions" {
        /// The driver. Only `file` and `qcow2` make something.
        "driver" driver: BlockdevDriver,
    }
    /// The members of the driver.
    pub enum BlockdevCreateDriverOptions by "driver" driver: BlockdevDriver {
        /// `blkdebug`
        Blkdebug(Empty),
        /// `copy-before-write`
        CopyBeforeWrite(Empty),
        /// `copy-on-read`
        CopyOnRead(Empty),
        /// `file`
        File(BlockdevCreateOptionsFile),
        /// `host_device`
        HostDevice(Empty),
        /// `nbd`
        Nbd(Empty),
        /// `null-co`
        NullCo(Empty),
        /// `qcow2`
        Qcow2(BlockdevCreateOptionsQcow2),
        /// `raw`
        Raw(Empty),
        /// `snapshot-access`
        SnapshotAccess(Empty),
        /// `throttle`
        Throttle(Empty),
    }
}

qapi_struct! {
    /// A regular file. One that is there is emptied.
    pub struct BlockdevCreateOptionsFile "BlockdevCreateOptionsFile" {
        /// The path.
        "filename" filename: String,
        /// The length in bytes.
        "size" size: Size,
        /// What space it takes from the start; off if absent. `metadata` is not for files.
        "preallocation" preallocation: Option<PreallocMode>,
        /// Accepted without effect: a file system that copies on write is told nothing.
        "nocow" nocow: Option<bool>,
        /// Accepted without effect.
        "extent-size-hint" extent_size_hint: Option<Size>,
    }
}

qapi_struct! {
    /// A qcow2 image.
    pub struct BlockdevCreateOptionsQcow2 "BlockdevCreateOptionsQcow2" {
        /// The node to make it in.
        "file" file: BlockdevRef,
        /// The node for the guest's data, which the image's header names by its file.
        "data-file" data_file: Option<BlockdevRef>,
        /// Whether that is a raw image by itself. Off if absent.
        "data-file-raw" data_file_raw: Option<bool>,
        /// Whether entries tell of the 32 parts of each cluster, so that a write copies less. Off if absent.
        "extended-l2" extended_l2: Option<bool>,
        /// The size of the disk in bytes.
        "size" size: Size,
        /// The version of the format; v3 if absent.
        "version" version: Option<BlockdevQcow2Version>,
        /// The name of the file that shows where the image has nothing.
        "backing-file" backing_file: Option<String>,
        /// The format of that.
        "backing-fmt" backing_fmt: Option<BlockdevDriver>,
        /// Bytes of a cluster; 65536 if absent.
        "cluster-size" cluster_size: Option<Size>,
        /// What there is before a guest writes; off if absent.
        "preallocation" preallocation: Option<PreallocMode>,
        /// Whether programs may write reference counts late. Off if absent.
        "lazy-refcounts" lazy_refcounts: Option<bool>,
        /// Bits of a reference count; 16 if absent.
        "refcount-bits" refcount_bits: Option<i64>,
        /// How clusters may be compressed; zlib if absent.
        "compression-type" compression_type: Option<Qcow2CompressionType>,
    }
}

qapi_enum! {
    /// What is there before somebody writes.
    pub enum PreallocMode "PreallocMode" {
        /// Nothing.
        Off = "off",
        /// Every guest cluster has its place in the file, as a hole.
        Metadata = "metadata",
        /// The file system reserves the space.
        Falloc = "falloc",
        /// Zeroes are written.
        Full = "full",
    }
}

qapi_enum! {
    /// Versions of the format.
    pub enum BlockdevQcow2Version "BlockdevQcow2Version" {
        /// Version 2, as QEMU before 1.1 knew it.
        V2 = "v2",
        /// Version 3.
        V3 = "v3",
    }
}

impl TryFrom<BlockdevCreateOptions> for Creation {
    type Error = QmpError;

    fn try_from(options: BlockdevCreateOptions) -> Result<Self, QmpError> {
        match options.branch {
            BlockdevCreateDriverOptions::File(file) => Ok(Self::File(file.into())),
            BlockdevCreateDriverOptions::Qcow2(image) => Ok(Self::Image(Box::new(image.try_into()?))),
            _ => Err(QmpError::generic("Driver does not support blockdev-create")),
        }
    }
}

impl From<BlockdevCreateOptionsFile> for CreateFile {
    fn from(file: BlockdevCreateOptionsFile) -> Self {
        let preallocation = match file.preallocation {
            None | Some(PreallocMode::Off) => FilePreallocation::Off,
            Some(PreallocMode::Metadata) => FilePreallocation::Metadata,
            Some(PreallocMode::Falloc) => FilePreallocation::Falloc,
            Some(PreallocMode::Full) => FilePreallocation::Full,
        };
        Self { filename: file.filename.into(), size: file.size.0.cast_signed(), preallocation }
    }
}

impl TryFrom<BlockdevCreateOptionsQcow2> for CreateImage {
    type Error = QmpError;

    fn try_from(image: BlockdevCreateOptionsQcow2) -> Result<Self, QmpError> {
        let defaults = CreateOptions::default();
        // What is less than nothing is out of range as what is too much.
        let bits = image.refcount_bits.map(|bits| u64::try_from(bits).unwrap_or(u64::MAX));
        let options = CreateOptions {
            size: image.size.0,
            cluster_size: image.cluster_size.map_or(defaults.cluster_size, |Size(bytes)| bytes),
            version: if image.version == Some(BlockdevQcow2Version::V2) { 2 } else { 3 },
            refcount_bits: bits.unwrap_or(defaults.refcount_bits),
            lazy_refcounts: image.lazy_refcounts.unwrap_or(false),
            backing: image.backing_file,
            backing_format: image.backing_fmt.map(|format| format.text().to_owned()),
            data_file_raw: image.data_file_raw.unwrap_or(false),
            extended_l2: image.extended_l2.unwrap_or(false),
            compression: match image.compression_type {
                Some(Qcow2CompressionType::Zstd) => Compression::Zstd,
                None | Some(Qcow2CompressionType::Zlib) => Compression::Zlib,
            },
            preallocation: match image.preallocation {
                None | Some(PreallocMode::Off) => Preallocation::Off,
                Some(PreallocMode::Metadata) => Preallocation::Metadata,
                Some(PreallocMode::Falloc) => Preallocation::Falloc,
                Some(PreallocMode::Full) => Preallocation::Full,
            },
            ..defaults
        };
        let data_file = image.data_file.map(TryInto::try_into).transpose()?;
        Ok(Self { file: image.file.try_into()?, data_file, options })
    }
}
