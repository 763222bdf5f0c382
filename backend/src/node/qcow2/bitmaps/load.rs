//! Loading the bitmaps of an image that is being opened, from a file that may say anything.
//!
//! No cluster is believed to be theirs that something else has. Of a bitmap that is in use only its place is looked at,
//! so that nothing else goes there; it does not keep an image from being opened.

use super::{Bitmaps, Held, InFile, LoadError, extend};
use crate::bitmaps::Persistent;
use crate::error::IoError;
use crate::node::qcow2::bitmap_directory::{self as directory, BitmapEntry, TableEntry};
use crate::node::qcow2::changes::Recovered;
use crate::node::qcow2::entry::Geometry;
use crate::node::qcow2::header::Header;
use crate::node::qcow2::l2::metadata::{Metadata, Structure};
use crate::node::qcow2::refcount::Refcounts;
use crate::node::qcow2::store::Store;
use crate::reactor::Handle;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tidemark_cbt::{Bitmap, Granularity};

/// Bytes that are read at once.
const READ_MAX: u64 = 1 << 20;

/// Bytes of set bits that an image may ask for and have no byte of in its file.
const ONES_MAX: u64 = 1 << 30;

/// The file, and what is there already.
struct Loader<'a> {
    io: &'a Handle,
    store: &'a Store,
    metadata: &'a Metadata,
    refcounts: &'a Refcounts,
    geometry: Geometry,
    /// Bytes of the disk.
    size: u64,
    file_length: u64,
    /// Bytes of bits that may still be set.
    ones_left: u64,
    /// What is known of bitmaps that are in use.
    recovered: Option<&'a Recovered>,
}

/// Loads the bitmaps of the image with this header; all other metadata is known. Those that are in use go on with what
/// was `recovered` of them, or are inconsistent.
///
/// # Errors
/// See [`LoadError`].
pub(in crate::node::qcow2) async fn load(
    io: &Handle,
    store: &Store,
    header: &Header,
    metadata: &Metadata,
    refcounts: &Refcounts,
    recovered: Option<&Recovered>,
) -> Result<Bitmaps, LoadError> {
    let Some(extension) = header.bitmaps else { return Ok(Bitmaps::default()) };
    let (geometry, file_length) = (header.geometry(), store.node().length());
    let bytes = store.read(io, extension.offset, extension.size).await.map_err(LoadError::ReadDirectory)?;
    let facts = directory::Image { geometry, size: header.size, file_length };
    let entries = directory::parse(bytes.as_slice(), extension.count, facts)?;
    let place = extension.offset..extension.offset + extension.size;
    // The header's parser has looked that it is apart from the tables that the header names.
    metadata.add(Structure::BitmapDirectory, place.clone());
    refcounts.reserve(place.clone());
    let ones_left = file_length.saturating_add(ONES_MAX);
    let size = header.size;
    let mut loader = Loader { io, store, metadata, refcounts, geometry, size, file_length, ones_left, recovered };
    let (mut held, mut loaded) = (Vec::new(), Vec::<Persistent>::new());
    for entry in entries {
        let (places, bitmap) = loader.bitmap(&entry).await?;
        held.push(Held { entry, places });
        loaded.push(bitmap);
    }
    let in_file = Mutex::new(InFile { directory: Some(place), held, unsure: false });
    let lost = loaded.iter().filter(|bitmap| bitmap.inconsistent).map(|bitmap| bitmap.name.clone()).collect();
    Ok(Bitmaps { in_file, lost: Mutex::new(lost), loaded: Mutex::new(loaded), ..Bitmaps::default() })
}

impl Loader<'_> {
    /// Where a bitmap is in the file, and what it says.
    async fn bitmap(&mut self, entry: &BitmapEntry) -> Result<(Vec<Range<u64>>, Persistent), LoadError> {
        let mut places = Vec::new();
        let table = self.table(entry, &mut places).await;
        let granularity = Granularity::new(1 << entry.granularity_bits).unwrap_or(Granularity::DEFAULT);
        let new = |len| Bitmap::new(len, granularity).map_err(|error| LoadError::Memory(entry.name.clone(), error));
        if entry.in_use {
            let recovered = self.recovered.filter(|recovered| recovered.has(&entry.name));
            let bits = new(if recovered.is_some() { self.size } else { 0 })?;
            let recovered = self.recover(entry, table, recovered, &bits).await;
            let bits = Arc::new(if recovered { bits } else { new(0)? });
            let enabled = entry.auto && recovered;
            return Ok((places, Persistent { name: entry.name.clone(), bits, enabled, inconsistent: !recovered }));
        }
        let bits = new(self.size)?;
        self.bits(entry, &table?, &bits).await?;
        let (name, bits) = (entry.name.clone(), Arc::new(bits));
        Ok((places, Persistent { name, bits, enabled: entry.auto, inconsistent: false }))
    }

    /// What a bitmap was when it was stored last, and where a journal says that the disk was written to since, if it
    /// was recording. False if that cannot be known.
    async fn recover(
        &mut self,
        entry: &BitmapEntry,
        table: Result<Vec<TableEntry>, LoadError>,
        recovered: Option<&Recovered>,
        bits: &Bitmap,
    ) -> bool {
        let stored = match (table, recovered) {
            (Ok(_), None) => return false,
            (Ok(table), Some(_)) => self.bits(entry, &table, bits).await,
            (Err(error), _) => Err(error),
        };
        if let Err(error) = stored {
            tracing::warn!(bitmap = entry.name, "bitmap of an image is in use, and part of it is lost: {error}");
            return false;
        }
        if let Some(recovered) = recovered {
            let before = bits.count();
            if entry.auto {
                bits.merge(&recovered.areas);
            }
            recovered.add(&entry.name, bits.count() - before);
        }
        true
    }

    /// A bitmap's table. `places` gets what is the bitmap's and nothing else's from now on.
    async fn table(&self, entry: &BitmapEntry, places: &mut Vec<Range<u64>>) -> Result<Vec<TableEntry>, LoadError> {
        let (name, start) = (entry.name.as_str(), entry.table_offset);
        self.claim(name, "table", start..start + u64::from(entry.table_entries) * 8, places)?;
        let words = self.store.read_words(self.io, start, entry.table_entries as usize).await;
        let words = words.map_err(|error| LoadError::Read(name.to_owned(), error))?;
        let table = directory::parse_table(name, &words, self.geometry, self.file_length)?;
        for place in &table {
            if let TableEntry::Cluster(host) = *place {
                self.claim(name, "data", host..host + self.geometry.cluster(), places)?;
            }
        }
        Ok(table)
    }

    fn claim(
        &self,
        name: &str,
        part: &'static str,
        range: Range<u64>,
        places: &mut Vec<Range<u64>>,
    ) -> Result<(), LoadError> {
        if !self.metadata.add(Structure::BitmapDirectory, range.clone()) {
            return Err(LoadError::Overlap { name: name.to_owned(), part, offset: range.start });
        }
        self.refcounts.reserve(range.clone());
        extend(places, range);
        Ok(())
    }

    /// Reads the bits, several clusters at once where they follow each other.
    async fn bits(&mut self, entry: &BitmapEntry, table: &[TableEntry], bits: &Bitmap) -> Result<(), LoadError> {
        let mut index = 0;
        while let Some(place) = table.get(index) {
            match *place {
                TableEntry::Zeroes => index += 1,
                TableEntry::Ones => {
                    let left = self.ones_left.checked_sub(self.geometry.cluster());
                    self.ones_left = left.ok_or_else(|| LoadError::Large(entry.name.clone()))?;
                    directory::fill(bits, index as u64, self.geometry);
                    index += 1;
                }
                TableEntry::Cluster(host) => {
                    let clusters = self.in_a_row(table.get(index..).unwrap_or_default(), host);
                    let read = self.clusters(bits, index as u64, host, clusters).await;
                    read.map_err(|error| LoadError::Read(entry.name.clone(), error))?;
                    index += clusters;
                }
            }
        }
        Ok(())
    }

    /// How many entries lead to clusters in a row, the first of them to `host`.
    fn in_a_row(&self, table: &[TableEntry], host: u64) -> usize {
        let cluster = self.geometry.cluster();
        let most = usize::try_from((READ_MAX / cluster).max(1)).unwrap_or(1);
        let hosts = (0..).map(|number: u64| TableEntry::Cluster(host + number * cluster));
        table.iter().take(most).zip(hosts).take_while(|(place, host)| *place == host).count()
    }

    async fn clusters(&self, bits: &Bitmap, index: u64, host: u64, clusters: usize) -> Result<(), IoError> {
        let cluster = self.geometry.cluster();
        let bytes = self.store.read(self.io, host, clusters as u64 * cluster).await?;
        let cluster = usize::try_from(cluster).map_err(|_| IoError::NoMemory)?;
        for (number, bytes) in (index..).zip(bytes.as_slice().chunks(cluster)) {
            directory::load(bits, number, bytes, self.geometry);
        }
        Ok(())
    }
}
