//! What only one format has to tell of an image.
//!
//! Knows an image by what it says of itself, not who asks.

use tidemark_backend::node::qcow2::bitmaps::StoredBitmap;
use tidemark_backend::node::qcow2::header::{Compression, Header, bits};

use crate::schema::{qapi_enum, qapi_struct, qapi_union};

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
        /// The persistent bitmaps, if there are any.
        "bitmaps" bitmaps: Option<Vec<Qcow2BitmapInfo>>,
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

qapi_struct! {
    /// A persistent bitmap, as the image has it.
    pub struct Qcow2BitmapInfo "Qcow2BitmapInfo" {
        /// Its name.
        "name" name: String,
        /// Bytes that a bit stands for.
        "granularity" granularity: i64,
        /// What is to be known of it.
        "flags" flags: Vec<Qcow2BitmapInfoFlags>,
    }
}

qapi_enum! {
    /// Flags of persistent bitmaps.
    pub enum Qcow2BitmapInfoFlags "Qcow2BitmapInfoFlags" {
        /// It was not stored when the image was closed, or the image is in use: its bits say nothing.
        InUse = "in-use",
        /// It records what is written.
        Auto = "auto",
    }
}

impl ImageInfoSpecific {
    /// Of a plain file.
    pub(super) fn file() -> Self {
        let data = ImageInfoSpecificFile {};
        let branch = ImageInfoSpecificData::File(ImageInfoSpecificFileWrapper { data });
        Self { kind: ImageInfoSpecificKind::File, branch }
    }

    /// Of a qcow2 image.
    pub(super) fn qcow2(header: &Header, bitmaps: &[StoredBitmap]) -> Self {
        let data = qcow2(header, bitmaps);
        let branch = ImageInfoSpecificData::Qcow2(ImageInfoSpecificQCow2Wrapper { data });
        Self { kind: ImageInfoSpecificKind::Qcow2, branch }
    }
}

fn qcow2(header: &Header, bitmaps: &[StoredBitmap]) -> ImageInfoSpecificQCow2 {
    let since_3 = |value: bool| Some(value).filter(|_| header.version >= 3);
    let apart = header.incompatible & bits::INCOMPATIBLE_DATA_FILE != 0;
    ImageInfoSpecificQCow2 {
        compat: if header.version >= 3 { "1.1" } else { "0.10" }.to_owned(),
        data_file: header.data_file.clone(),
        data_file_raw: Some(header.autoclear & bits::AUTOCLEAR_RAW_DATA != 0).filter(|_| apart),
        extended_l2: since_3(header.incompatible & bits::INCOMPATIBLE_EXTENDED_L2 != 0),
        lazy_refcounts: since_3(header.compatible & bits::COMPATIBLE_LAZY_REFCOUNTS != 0),
        corrupt: since_3(header.incompatible & bits::INCOMPATIBLE_CORRUPT != 0),
        refcount_bits: 1 << header.refcount_order,
        bitmaps: Some(bitmaps.iter().map(Into::into).collect()).filter(|_| !bitmaps.is_empty()),
        compression_type: match header.compression {
            Compression::Zlib => Qcow2CompressionType::Zlib,
            Compression::Zstd => Qcow2CompressionType::Zstd,
        },
    }
}

impl From<&StoredBitmap> for Qcow2BitmapInfo {
    fn from(bitmap: &StoredBitmap) -> Self {
        let in_use = bitmap.in_use.then_some(Qcow2BitmapInfoFlags::InUse);
        let auto = bitmap.auto.then_some(Qcow2BitmapInfoFlags::Auto);
        Self {
            name: bitmap.name.clone(),
            granularity: bitmap.granularity.into(),
            flags: in_use.into_iter().chain(auto).collect(),
        }
    }
}
