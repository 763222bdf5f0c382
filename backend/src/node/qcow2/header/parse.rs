//! Reads the first cluster of an image; see the specification, "Header", for the offsets.

use super::error::HeaderError;
use super::extensions::{self, BACKING_FORMAT, BITMAPS, CRYPTO, DATA_FILE};
use super::fields::Fields;
use super::{Backing, Compression, Header, LENGTH_V2, LENGTH_V3, MAGIC, MAX_BACKING_NAME, bits, features, tables};

/// Bytes of the shortest header of version 3.
const MIN_LENGTH_V3: u32 = 104;

impl Header {
    /// Bytes per cluster of the image that begins with these [`super::PREFIX`] bytes: as many [`Header::parse`] needs.
    ///
    /// # Errors
    /// It is no image of a version and a cluster size that is supported.
    pub fn cluster_size(prefix: &[u8]) -> Result<u64, HeaderError> {
        let fields = Fields(prefix);
        if fields.u32(0) != MAGIC {
            return Err(HeaderError::Magic);
        }
        match (fields.u32(4), fields.u32(20)) {
            (2 | 3, cluster_bits @ 9..=21) => Ok(1 << cluster_bits),
            (2 | 3, cluster_bits) => Err(HeaderError::ClusterSize(cluster_bits)),
            (version, _) => Err(HeaderError::Version(version)),
        }
    }

    /// The header of a file of `file_length` bytes, which has the tables that are named, each in a place of its own.
    ///
    /// # Errors
    /// As [`Header::read`]; a table that is not in the file, or where another one is.
    pub fn parse(cluster0: &[u8], file_length: u64) -> Result<Self, HeaderError> {
        let header = Self::read(cluster0, file_length)?;
        tables::check_places(&header, file_length)?;
        Ok(header)
    }

    /// The header in the first cluster of a file of `file_length` bytes, whatever the file has of the tables that are
    /// named: for whoever tells of an image. What is past the end of the file is zero.
    ///
    /// # Errors
    /// [`HeaderError::Incomplete`] when `cluster0` is less than the first cluster of the file; else what is wrong.
    pub fn read(cluster0: &[u8], file_length: u64) -> Result<Self, HeaderError> {
        let cluster_size = Self::cluster_size(cluster0)?;
        if (cluster0.len() as u64) < cluster_size.min(file_length) {
            return Err(HeaderError::Incomplete(cluster_size));
        }
        let mut cluster = cluster0.to_vec();
        // At most 2 MiB.
        cluster.resize(usize::try_from(cluster_size).unwrap_or(0), 0);
        let mut header = Self::fixed(&cluster)?;
        let area = Area::of(&cluster, &header)?;
        features::check(header.incompatible, &cluster, area.start, area.end)?;
        header.check_fields(&cluster)?;
        tables::check_limits(&header)?;
        header.read_extensions(&cluster, area)?;
        header.read_backing_name(&cluster)?;
        if header.autoclear & bits::AUTOCLEAR_RAW_DATA != 0 && !header.geometry().external_data {
            return Err(HeaderError::RawWithoutDataFile);
        }
        Ok(header)
    }

    /// The fields at fixed offsets.
    fn fixed(cluster: &[u8]) -> Result<Self, HeaderError> {
        let fields = Fields(cluster);
        let version = fields.u32(4);
        // Version 2 ends before these.
        let new = if version == 2 { Fields(&[]) } else { fields };
        let length = if version == 2 { LENGTH_V2 } else { header_length(new.u32(100), cluster.len())? };
        let unknown = cluster.get(LENGTH_V3 as usize..length as usize).unwrap_or_default();
        Ok(Self {
            version,
            size: fields.u64(24) & !511,
            cluster_bits: fields.u32(20),
            refcount_order: if version == 2 { 4 } else { new.u32(96) },
            l1_offset: fields.u64(40),
            l1_entries: fields.u32(36),
            reftable_offset: fields.u64(48),
            reftable_clusters: fields.u32(56),
            snapshots_offset: fields.u64(64),
            snapshots: fields.u32(60),
            incompatible: new.u64(72),
            compatible: new.u64(80),
            autoclear: new.u64(88),
            compression: Compression::Zlib,
            backing: None,
            data_file: None,
            bitmaps: None,
            stale_bitmaps: false,
            extensions: Vec::new(),
            header_length: length,
            unknown_fields: unknown.to_vec(),
        })
    }

    /// What single fields may say.
    fn check_fields(&mut self, cluster: &[u8]) -> Result<(), HeaderError> {
        if self.refcount_order > 6 {
            return Err(HeaderError::RefcountWidth);
        }
        match Fields(cluster).u32(32) {
            0 => {}
            1 => return Err(HeaderError::Encrypted("AES")),
            2 => return Err(HeaderError::Encrypted("LUKS")),
            other => return Err(HeaderError::EncryptionMethod(other)),
        }
        let part = self.geometry().part();
        if part < 512 {
            return Err(HeaderError::PartSize(part));
        }
        // The field is there if the header is long enough.
        let kind = if self.header_length > MIN_LENGTH_V3 { Fields(cluster).u8(104) } else { 0 };
        let bit = self.incompatible & bits::INCOMPATIBLE_COMPRESSION != 0;
        self.compression = match (kind, bit) {
            (0, false) => Compression::Zlib,
            (0, true) => return Err(HeaderError::CompressionBit),
            (_, false) => return Err(HeaderError::CompressionBitMissing),
            (1, true) => Compression::Zstd,
            (other, true) => return Err(HeaderError::CompressionType(other)),
        };
        Ok(())
    }

    /// Extensions that mean something here go to their fields; the last of a kind counts, as it does for QEMU.
    fn read_extensions(&mut self, cluster: &[u8], area: Area) -> Result<(), HeaderError> {
        let backing = Fields(cluster).u64(8) != 0 && Fields(cluster).u32(16) != 0;
        let mut format = None;
        for extension in extensions::walk(cluster, area.start, area.end) {
            match extension? {
                (BACKING_FORMAT, data) => format = Some(extensions::backing_format(data)?),
                (CRYPTO, _) => return Err(HeaderError::CryptoExtension),
                (DATA_FILE, data) if self.geometry().external_data => {
                    self.data_file = Some(extensions::text(data, "Data file name")?);
                }
                (BITMAPS, data) if self.autoclear & bits::AUTOCLEAR_BITMAPS != 0 => {
                    self.bitmaps = Some(extensions::bitmaps(data, self.geometry().cluster())?);
                }
                (BITMAPS, _) => self.stale_bitmaps = true,
                (kind, data) => self.extensions.push((kind, data.to_vec())),
            }
        }
        self.backing = backing.then(|| Backing { file: String::new(), format });
        Ok(())
    }

    fn read_backing_name(&mut self, cluster: &[u8]) -> Result<(), HeaderError> {
        let Some(backing) = &mut self.backing else { return Ok(()) };
        let (offset, len) = (Fields(cluster).u64(8), Fields(cluster).u32(16));
        if len > MAX_BACKING_NAME {
            return Err(HeaderError::BackingName);
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| cluster.get(offset..));
        let name = rest.and_then(|rest| rest.get(..len as usize)).ok_or(HeaderError::BackingName)?;
        backing.file = extensions::text(name, "Backing file name")?;
        if backing.file.is_empty() {
            self.backing = None;
        }
        Ok(())
    }
}

/// Checked, and rounded up as the specification wants it.
fn header_length(length: u32, cluster: usize) -> Result<u32, HeaderError> {
    if length < MIN_LENGTH_V3 {
        return Err(HeaderError::Short);
    }
    if length as usize > cluster {
        return Err(HeaderError::Long);
    }
    Ok(length.next_multiple_of(8))
}

/// Where extensions may be in the first cluster.
#[derive(Clone, Copy)]
struct Area {
    start: usize,
    end: usize,
}

impl Area {
    /// From the end of the header to the name of the backing file or the end of the cluster.
    fn of(cluster: &[u8], header: &Header) -> Result<Self, HeaderError> {
        let start = if header.version == 2 { LENGTH_V2 } else { Fields(cluster).u32(100) };
        let end = match Fields(cluster).u64(8) {
            0 => cluster.len(),
            offset => usize::try_from(offset).map_err(|_| HeaderError::BackingOffset)?,
        };
        match end > cluster.len() {
            true => Err(HeaderError::BackingOffset),
            false => Ok(Self { start: start as usize, end }),
        }
    }
}
