//! Writing a bitmap or a directory to clusters taken for it. Nothing leads there yet.
//!
//! Where no bit is set, or all are, the table says so and no cluster is taken.

use super::clusters::Taken;
use super::{Held, StoreError, extend};
use crate::bitmaps::Persistent;
use crate::error::IoError;
use crate::io::{Buf, byte_count};
use crate::node::qcow2::bitmap_directory::{self as directory, BitmapEntry, TableEntry};
use crate::node::qcow2::image::Image;
use crate::reactor::Handle;
use std::ops::Range;
use tidemark_cbt::Bitmap;

/// Bytes that are written at once.
const WRITE_MAX: u64 = 1 << 20;

/// Clusters of bits that are to be written, with their places in the table.
#[derive(Default)]
struct Pending {
    indexes: Vec<usize>,
    bytes: Vec<u8>,
}

impl Image {
    /// Writes a bitmap.
    pub(super) async fn write_bitmap(
        &self,
        io: &Handle,
        bitmap: &Persistent,
        taken: &mut Taken,
    ) -> Result<Held, StoreError> {
        let fault = |failure: Failure| failure.of(&bitmap.name);
        let mut places = Vec::new();
        let table = self.write_bits(io, &bitmap.bits, taken, &mut places).await.map_err(fault)?;
        let table_entries = u32::try_from(table.len()).map_err(|_| StoreError::Directory)?;
        let words: Vec<u8> = directory::table_words(&table).into_iter().flat_map(u64::to_be_bytes).collect();
        let place = self.write_whole(io, words, taken).await.map_err(fault)?;
        let entry = BitmapEntry {
            name: bitmap.name.clone(),
            table_offset: place.start,
            table_entries,
            in_use: false,
            auto: bitmap.enabled,
            granularity_bits: u8::try_from(bitmap.bits.granularity().bits()).unwrap_or(u8::MAX),
        };
        places.push(place);
        Ok(Held { entry, places })
    }

    /// Writes the directory of these.
    pub(super) async fn write_directory(
        &self,
        io: &Handle,
        held: &[Held],
        taken: &mut Taken,
    ) -> Result<Range<u64>, StoreError> {
        let entries: Vec<BitmapEntry> = held.iter().map(|held| held.entry.clone()).collect();
        let bytes = directory::to_bytes(&entries).map_err(|_| StoreError::Directory)?;
        let len = bytes.len() as u64;
        let place = self.write_whole(io, bytes, taken).await;
        let place =
            place.map_err(|(Failure::Take(error) | Failure::Write(error))| StoreError::WriteDirectory(error))?;
        Ok(place.start..place.start + len)
    }

    /// Writes a bitmap's bits; returns its table.
    async fn write_bits(
        &self,
        io: &Handle,
        bits: &Bitmap,
        taken: &mut Taken,
        places: &mut Vec<Range<u64>>,
    ) -> Result<Vec<TableEntry>, Failure> {
        let geometry = self.geometry;
        let granularity_bits = u8::try_from(bits.granularity().bits()).unwrap_or(u8::MAX);
        let entries = directory::table_entries(bits.len(), granularity_bits, geometry);
        let mut table = vec![TableEntry::Zeroes; byte_count(entries)];
        let per_cluster = (geometry.cluster() * 8).saturating_mul(bits.granularity().bytes());
        let (mut pending, mut from) = (Pending::default(), 0);
        while let Some(marked) = bits.next_marked(from) {
            let index = marked.start / per_cluster;
            from = directory::span(bits, index, geometry).end;
            if directory::is_full(bits, index, geometry) {
                table[byte_count(index)] = TableEntry::Ones;
            } else if let Some(bytes) = directory::store(bits, index, geometry) {
                pending.indexes.push(byte_count(index));
                pending.bytes.extend(bytes);
            }
            if pending.bytes.len() as u64 >= WRITE_MAX {
                self.write_pending(io, std::mem::take(&mut pending), &mut table, taken, places).await?;
            }
        }
        self.write_pending(io, pending, &mut table, taken, places).await?;
        Ok(table)
    }

    /// Writes clusters of bits and says in the table where they are.
    async fn write_pending(
        &self,
        io: &Handle,
        pending: Pending,
        table: &mut [TableEntry],
        taken: &mut Taken,
        places: &mut Vec<Range<u64>>,
    ) -> Result<(), Failure> {
        let cluster = self.geometry.cluster();
        let (mut indexes, mut bytes) = (pending.indexes.as_slice(), pending.bytes.as_slice());
        while !indexes.is_empty() {
            let run = self.take_for_bitmaps(io, 1, indexes.len() as u64, taken).await.map_err(Failure::Take)?;
            let (these, others) = indexes.split_at(byte_count((run.end - run.start) / cluster));
            let (data, rest) = bytes.split_at(byte_count(run.end - run.start));
            self.store.write(io, run.start, buf(data)).await.map_err(Failure::Write)?;
            for (number, index) in (0..).zip(these) {
                table[*index] = TableEntry::Cluster(run.start + number * cluster);
            }
            extend(places, run);
            (indexes, bytes) = (others, rest);
        }
        Ok(())
    }

    /// Writes whole clusters in a row that begin with these bytes.
    async fn write_whole(&self, io: &Handle, mut bytes: Vec<u8>, taken: &mut Taken) -> Result<Range<u64>, Failure> {
        let clusters = self.geometry.clusters(bytes.len() as u64);
        bytes.resize(byte_count(clusters * self.geometry.cluster()), 0);
        let place = self.take_for_bitmaps(io, clusters, clusters, taken).await.map_err(Failure::Take)?;
        self.store.write(io, place.start, buf(&bytes)).await.map_err(Failure::Write)?;
        Ok(place)
    }
}

/// What storage did not do.
enum Failure {
    Take(IoError),
    Write(IoError),
}

impl Failure {
    fn of(self, bitmap: &str) -> StoreError {
        match self {
            Self::Take(error) => StoreError::Allocate(bitmap.to_owned(), error),
            Self::Write(error) => StoreError::Write(bitmap.to_owned(), error),
        }
    }
}

fn buf(bytes: &[u8]) -> Buf {
    let mut buf = Buf::new(bytes.len());
    buf.as_mut_slice().copy_from_slice(bytes);
    buf
}
