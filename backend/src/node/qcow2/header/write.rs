//! Writes the first cluster of an image; see the specification, "Header", for the order of the fields.

use super::error::HeaderError;
use super::extensions::{self, BACKING_FORMAT, BITMAPS, DATA_FILE};
use super::fields::Writer;
use super::place::Used;
use super::{Backing, Compression, Header, MAGIC, MAX_BACKING_NAME, MAX_FORMAT_NAME};

/// Bytes that are written as a whole or not at all.
const SECTOR: usize = 512;

impl Header {
    /// The whole first cluster: header, extensions, name of the backing file, zeroes.
    ///
    /// # Errors
    /// It does not fit, or a name in it is too long to be read again.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HeaderError> {
        self.to_bytes_with(|natural, _| natural)
    }

    /// The same, with the name of the backing file where `place` puts it, by where it would be and its length.
    pub(super) fn to_bytes_with(&self, place: impl FnOnce(usize, usize) -> usize) -> Result<Vec<u8>, HeaderError> {
        let cluster = self.geometry().cluster();
        let extensions = self.extension_area()?.ok_or(HeaderError::DoesNotFit(cluster))?;
        let name = self.backing.as_ref().map(|backing| backing.file.as_bytes()).unwrap_or_default();
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        if name_len > MAX_BACKING_NAME {
            return Err(HeaderError::BackingName);
        }
        let name_offset = match name_len {
            0 => 0,
            _ => place(self.header_length as usize + extensions.len(), name.len()),
        };
        let mut writer = self.fields(name_offset as u64, name_len);
        writer.bytes(&extensions);
        writer.0.resize(writer.0.len().max(name_offset), 0);
        writer.bytes(name);
        if writer.0.len() as u64 > cluster {
            return Err(HeaderError::DoesNotFit(cluster));
        }
        writer.0.resize(usize::try_from(cluster).unwrap_or(0), 0);
        Ok(writer.0)
    }

    /// The first sector of a header that leads to all that this one leads to, with the name of the backing file where
    /// `bytes` have it, and that has no other extensions; nothing if there is no room for it.
    pub fn first_sector(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let name = Used::by(bytes).name;
        let mut writer = self.fields(name.start as u64, u32::try_from(name.len()).ok()?);
        let mut known = self.known_extensions().ok()?.into_iter();
        known.all(|(kind, data)| extensions::append(&mut writer, kind, &data).is_some()).then_some(())?;
        extensions::end(&mut writer);
        let (len, sector) = (writer.0.len(), bytes.get(..SECTOR)?);
        if len > SECTOR || (!name.is_empty() && name.start < len) {
            return None;
        }
        writer.0.resize(SECTOR, 0);
        let named = name.start.min(SECTOR)..name.end.min(SECTOR);
        writer.0.get_mut(named.clone())?.copy_from_slice(sector.get(named)?);
        Some(writer.0)
    }

    /// The header itself, `header_length` bytes.
    fn fields(&self, name_offset: u64, name_len: u32) -> Writer {
        let mut writer = Writer::default();
        writer.u32(MAGIC).u32(self.version).u64(name_offset).u32(name_len).u32(self.cluster_bits);
        // Not encrypted.
        writer.u64(self.size).u32(0).u32(self.l1_entries).u64(self.l1_offset);
        writer.u64(self.reftable_offset).u32(self.reftable_clusters).u32(self.snapshots).u64(self.snapshots_offset);
        if self.version > 2 {
            writer.u64(self.incompatible).u64(self.compatible).u64(self.autoclear);
            writer.u32(self.refcount_order).u32(self.header_length);
            let compression = match self.compression {
                Compression::Zlib => 0,
                Compression::Zstd => 1,
            };
            writer.bytes(&[compression]).pad();
            // A shorter header ends before the last fields, which say nothing then.
            writer.bytes(&self.unknown_fields);
        }
        writer.0.resize(self.header_length as usize, 0);
        writer
    }

    /// The extensions without which the image is not what it is.
    fn known_extensions(&self) -> Result<Vec<(u32, Vec<u8>)>, HeaderError> {
        // In the first sector whatever else there is: it is changed together with its bit, or not at all.
        let mut known: Vec<_> =
            self.bitmaps.iter().map(|bitmaps| (BITMAPS, extensions::bitmaps_data(*bitmaps))).collect();
        if let Some(Backing { format: Some(format), .. }) = &self.backing {
            if format.len() > MAX_FORMAT_NAME {
                return Err(HeaderError::FormatName(format.len()));
            }
            known.push((BACKING_FORMAT, format.as_bytes().to_vec()));
        }
        known.extend(self.data_file.iter().map(|name| (DATA_FILE, name.as_bytes().to_vec())));
        Ok(known)
    }

    /// The extensions; nothing if one is longer than its length can say.
    fn extension_area(&self) -> Result<Option<Vec<u8>>, HeaderError> {
        let known = self.known_extensions()?;
        let mut writer = Writer::default();
        let mut all = known.iter().chain(&self.extensions);
        let whole = all.all(|(kind, data)| extensions::append(&mut writer, *kind, data).is_some());
        extensions::end(&mut writer);
        Ok(whole.then_some(writer.0))
    }
}
