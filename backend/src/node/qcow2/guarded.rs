//! Where an image has metadata when it is opened, so that nothing else is put there.
//!
//! L2 tables are added when the L1 table is read, what is made later by who makes it. The L2 tables that only snapshots
//! have are left to [`super::inactive`]: to find them all L1 tables have to be read.

use super::entry::Geometry;
use super::header::Header;
use super::l2::Tables;
use super::l2::metadata::{Metadata, Structure};
use super::refcount::Refcounts;
use super::snapshot::SnapshotTable;
use std::ops::Range;

/// A piece of metadata.
pub(super) type Piece = (Structure, Range<u64>);

/// All metadata but L2 tables.
pub(super) fn known(header: &Header, refcounts: &Refcounts, snapshots: &[Piece], length: u64) -> Metadata {
    let metadata = Metadata::of_file(length);
    let Geometry { cluster_bits, .. } = header.geometry();
    let cluster = 1 << cluster_bits;
    let table_end = header.reftable_offset + (u64::from(header.reftable_clusters) << cluster_bits);
    let mut ranges = vec![
        (Structure::Header, 0..cluster),
        (Structure::ActiveL1, l1(header)),
        (Structure::RefcountTable, header.reftable_offset..table_end),
    ];
    ranges.extend(header.bitmaps.map(|bitmaps| {
        let end = bitmaps.offset.saturating_add(bitmaps.size);
        (Structure::BitmapDirectory, bitmaps.offset..end)
    }));
    ranges.extend_from_slice(snapshots);
    ranges.extend(
        refcounts.blocks().into_iter().map(|host| (Structure::RefcountBlock, host..host.saturating_add(cluster))),
    );
    for (structure, range) in ranges {
        // The header's parser has looked that its tables are apart; of others that are not, the first counts.
        metadata.add(structure, range);
    }
    metadata
}

/// Whatever a broken image says of their counts, the clusters of its tables are not taken for anything else.
pub(super) fn protect(header: &Header, refcounts: &Refcounts, snapshots: &[Piece], tables: &Tables) {
    let cluster = tables.geometry().cluster();
    refcounts.protect(l1(header));
    snapshots.iter().for_each(|(_, range)| refcounts.protect(range.clone()));
    for index in 0..tables.l1_entries() {
        if let Ok(Some((host, _))) = tables.table(index) {
            refcounts.protect(host..host + cluster);
        }
    }
}

fn l1(header: &Header) -> Range<u64> {
    header.l1_offset..header.l1_offset + u64::from(header.l1_entries) * 8
}

/// The snapshot table and the L1 tables that it names, as far as they are in a file of `length` bytes.
pub(super) fn snapshots(table: &SnapshotTable, geometry: Geometry, length: u64) -> Vec<Piece> {
    let own = table.offset..table.offset.saturating_add(table.len).min(length);
    let l1_tables = table.snapshots.iter().filter_map(|snapshot| snapshot.l1_range(geometry, length));
    let mut found: Vec<Piece> = l1_tables.map(|range| (Structure::InactiveL1, range)).collect();
    found.push((Structure::SnapshotTable, own));
    found.retain(|(_, range)| !range.is_empty());
    found
}
