//! What queries tell about images.
//!
//! Knows nodes from outside, and of an image what it said of itself when it was opened.

use std::path::Path;
use std::sync::Arc;

use tidemark_backend::node::qcow2::header::{Compression, Header, bits};
use tidemark_backend::node::{Driver, Node};

use super::info::filename;
use crate::schema::{qapi_enum, qapi_struct, qapi_union};

qapi_struct! {
    /// An image.
    pub struct ImageInfo "ImageInfo" {
        /// Its file name, or what stands for it.
        "filename" filename: String,
        /// Its format: the name of the driver.
        "format" format: String,
        /// Whether it was not closed in order by a program that keeps reference counts until then.
        "dirty-flag" dirty_flag: Option<bool>,
        /// The bytes that its file takes up on the storage, if it has one.
        "actual-size" actual_size: Option<u64>,
        /// The size of the disk in bytes.
        "virtual-size" virtual_size: u64,
        /// Bytes of a cluster, of a format that has them.
        "cluster-size" cluster_size: Option<i64>,
        /// The image below, as the header names it.
        "backing-filename" backing_filename: Option<String>,
        /// Its path from where this program runs.
        "full-backing-filename" full_backing_filename: Option<String>,
        /// Its format, as the header names it.
        "backing-filename-format" backing_filename_format: Option<String>,
        /// The image that shows where this one has nothing, or the one below a filter.
        "backing-image" backing_image: Option<Box<ImageInfo>>,
        /// What only this format has.
        "format-specific" format_specific: Option<ImageInfoSpecific>,
    }
}

qapi_union! {
    /// What only one format has.
    pub struct ImageInfoSpecific "ImageInfoSpecific" {
        /// The format.
        "type" kind: ImageInfoSpecificKind,
    }
    /// The members of the format.
    pub enum ImageInfoSpecificData by "type" kind: ImageInfoSpecificKind {
        /// `file`
        File(ImageInfoSpecificFileWrapper),
        /// `qcow2`
        Qcow2(ImageInfoSpecificQCow2Wrapper),
    }
}

qapi_enum! {
    /// Formats with something to tell.
    pub enum ImageInfoSpecificKind "ImageInfoSpecificKind" {
        /// Plain files.
        File = "file",
        /// qcow2 images.
        Qcow2 = "qcow2",
    }
}

qapi_struct! {
    /// Of a plain file.
    pub struct ImageInfoSpecificFileWrapper "ImageInfoSpecificFileWrapper" {
        /// What there is to tell.
        "data" data: ImageInfoSpecificFile,
    }
}

qapi_struct! {
    /// Of a plain file; nothing.
    pub struct ImageInfoSpecificFile "ImageInfoSpecificFile" {}
}

qapi_struct! {
    /// Of a qcow2 image.
    pub struct ImageInfoSpecificQCow2Wrapper "ImageInfoSpecificQCow2Wrapper" {
        /// What there is to tell.
        "data" data: ImageInfoSpecificQCow2,
    }
}

qapi_struct! {
    /// What a qcow2 image says of itself.
    pub struct ImageInfoSpecificQCow2 "ImageInfoSpecificQCow2" {
        /// The oldest QEMU that can read it: `0.10` for version 2, `1.1` for version 3.
        "compat" compat: String,
        /// The file with the guest's data, if the image keeps it apart.
        "data-file" data_file: Option<String>,
        /// Whether that file is a raw image of the disk.
        "data-file-raw" data_file_raw: Option<bool>,
        /// Whether clusters have subclusters. Always false. Version 3 only.
        "extended-l2" extended_l2: Option<bool>,
        /// Whether reference counts may be written late. Version 3 only.
        "lazy-refcounts" lazy_refcounts: Option<bool>,
        /// Whether somebody found the image corrupt. Version 3 only.
        "corrupt" corrupt: Option<bool>,
        /// Bits of a reference count.
        "refcount-bits" refcount_bits: i64,
        /// How compressed clusters are compressed.
        "compression-type" compression_type: Qcow2CompressionType,
    }
}

qapi_enum! {
    /// Methods of compression.
    pub enum Qcow2CompressionType "Qcow2CompressionType" {
        /// Deflate.
        Zlib = "zlib",
        /// Zstandard.
        Zstd = "zstd",
    }
}

/// What is to be told of a node's image; with `flat`, not what is below it.
pub(super) fn image(node: &Node, flat: bool) -> ImageInfo {
    let below = below(node).filter(|_| !flat);
    let header = header(node);
    let backing = header.as_ref().and_then(|header| header.backing.as_ref());
    ImageInfo {
        filename: filename(node),
        format: node.driver_name().to_owned(),
        dirty_flag: dirty_flag(node),
        actual_size: actual_size(node),
        virtual_size: node.length(),
        cluster_size: header.as_ref().map(|header| 1 << header.cluster_bits),
        backing_filename: backing.map(|backing| backing.file.clone()),
        full_backing_filename: backing.map(|backing| full_path(&filename(node), &backing.file)),
        backing_filename_format: backing.and_then(|backing| backing.format.clone()),
        backing_image: below.map(|below| Box::new(image(below, flat))),
        format_specific: specific(node),
    }
}

/// The node below a filter, which shows the same disk, or the one that shows where an image has nothing.
pub(super) fn below(node: &Node) -> Option<&Arc<Node>> {
    match node.driver() {
        Driver::BlkDebug(_) | Driver::CopyBeforeWrite(_) => node.child(),
        Driver::Qcow2(image) => image.backing(),
        Driver::File(_) | Driver::Null(_) | Driver::Raw(_) | Driver::SnapshotAccess(_) => None,
    }
}

fn header(node: &Node) -> Option<Arc<Header>> {
    match node.driver() {
        Driver::Qcow2(image) => Some(image.header()),
        _ => None,
    }
}

/// Drivers without any file have nothing to say.
fn dirty_flag(node: &Node) -> Option<bool> {
    match node.driver() {
        Driver::File(_) => Some(false),
        Driver::Qcow2(image) => Some(image.header().incompatible & bits::INCOMPATIBLE_DIRTY != 0),
        Driver::Raw(_) | Driver::BlkDebug(_) | Driver::CopyBeforeWrite(_) => dirty_flag(node.child()?),
        Driver::Null(_) | Driver::SnapshotAccess(_) => None,
    }
}

/// The space that the files of a node take up; 0 without a file, as for QEMU's null driver. A
/// filter has none of its own.
fn actual_size(node: &Node) -> Option<u64> {
    match node.driver() {
        Driver::File(file) => {
            let stat = rustix::fs::fstat(file.fd()).ok()?;
            Some(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
        }
        Driver::Qcow2(image) => {
            let data = image.data_file().map_or(Some(0), |data| actual_size(data));
            Some(actual_size(image.file())?.saturating_add(data?))
        }
        Driver::Raw(_) | Driver::CopyBeforeWrite(_) | Driver::SnapshotAccess(_) => actual_size(node.child()?),
        Driver::Null(_) => Some(0),
        Driver::BlkDebug(_) => None,
    }
}

/// A name in the header of the image at `image`, as a path from where that one is.
fn full_path(image: &str, name: &str) -> String {
    match Path::new(image).parent() {
        Some(directory) => directory.join(name).display().to_string(),
        None => name.to_owned(),
    }
}

fn specific(node: &Node) -> Option<ImageInfoSpecific> {
    let (kind, branch) = match node.driver() {
        Driver::File(file) if !file.is_device() => {
            let data = ImageInfoSpecificFile {};
            (ImageInfoSpecificKind::File, ImageInfoSpecificData::File(ImageInfoSpecificFileWrapper { data }))
        }
        Driver::Qcow2(image) => {
            let data = qcow2(&image.header());
            (ImageInfoSpecificKind::Qcow2, ImageInfoSpecificData::Qcow2(ImageInfoSpecificQCow2Wrapper { data }))
        }
        _ => return None,
    };
    Some(ImageInfoSpecific { kind, branch })
}

fn qcow2(header: &Header) -> ImageInfoSpecificQCow2 {
    let since_3 = |value: bool| Some(value).filter(|_| header.version >= 3);
    let apart = header.incompatible & bits::INCOMPATIBLE_DATA_FILE != 0;
    ImageInfoSpecificQCow2 {
        compat: if header.version >= 3 { "1.1" } else { "0.10" }.to_owned(),
        data_file: header.data_file.clone(),
        data_file_raw: Some(header.autoclear & bits::AUTOCLEAR_RAW_DATA != 0).filter(|_| apart),
        extended_l2: since_3(false),
        lazy_refcounts: since_3(header.compatible & bits::COMPATIBLE_LAZY_REFCOUNTS != 0),
        corrupt: since_3(header.incompatible & bits::INCOMPATIBLE_CORRUPT != 0),
        refcount_bits: 1 << header.refcount_order,
        compression_type: match header.compression {
            Compression::Zlib => Qcow2CompressionType::Zlib,
            Compression::Zstd => Qcow2CompressionType::Zstd,
        },
    }
}
