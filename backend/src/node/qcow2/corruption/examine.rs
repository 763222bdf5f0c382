//! What is wrong with the entries that a request has met.

use super::Corruption;
use crate::node::Kind;
use crate::node::qcow2::entry::{Entry, Geometry};
use crate::node::qcow2::image::Image;
use crate::node::qcow2::l2::Tables;
use crate::node::qcow2::map::Found;
use crate::reactor::Handle;
use std::ops::Range;

/// Bits 9 to 55 of an entry: an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;

/// An entry that leads nowhere, and who met it.
struct Met {
    /// The guest's bytes.
    range: Range<u64>,
    /// They were to be changed.
    writes: bool,
}

impl Image {
    /// The first entry of a guest's range that leads nowhere, if one does.
    pub(super) async fn examine(&self, io: &Handle, kind: Kind, range: Range<u64>) -> Option<Corruption> {
        let mut at = range.start;
        while at < range.end {
            let extent = self.locate(io, at, range.end - at).await.ok()?;
            if extent.found == Found::Invalid {
                let end = range.end.min(self.geometry.cluster_start(at) + self.geometry.cluster());
                return self.examine_one(io, &Met { range: at..end, writes: kind.changes() }).await;
            }
            at += extent.len;
        }
        None
    }

    async fn examine_one(&self, io: &Handle, met: &Met) -> Option<Corruption> {
        let index = self.geometry.l1_index(met.range.start);
        if self.tables.table(index).is_err() {
            return Some(self.of_l1(index, met));
        }
        let word = self.tables.word(io, met.range.start).await.ok().flatten()?;
        let table = self.tables.table(index).ok().flatten().map_or(0, |(host, _)| host);
        let place = format!("(L2 offset: {table:#x}, L2 index: {})", qemu_hex(self.geometry.l2_index(met.range.start)));
        Some(match place_of(self.geometry, word) {
            None => {
                let text = match unaligned(self.geometry, word) {
                    Some(what) if met.writes => format!("{what} (guest offset: {:#x})", met.range.start),
                    _ => format!("{} {place}", fault_of(self.geometry, word)),
                };
                Corruption { text, bytes: None, fatal: true }
            }
            Some((host, _)) if self.geometry.external_data => {
                let text = self.misplaced(host, self.geometry.cluster_start(met.range.start));
                Corruption { text, bytes: None, fatal: true }
            }
            Some((host, len)) => {
                let skip = self.geometry.in_cluster(met.range.start);
                let bytes = host + skip..host + (skip + met.range.end - met.range.start).min(len.max(skip));
                self.of_place(&format!("Cluster allocation offset {host:#x}"), &place, host..host + len, bytes, met)
            }
        })
    }

    fn misplaced(&self, host: u64, guest: u64) -> String {
        let [at, of, index] = [host, guest, self.geometry.l2_index(guest) as u64].map(qemu_hex);
        let outside = format!("External data file host cluster offset {at} does not match guest cluster offset");
        // With the bracket that QEMU closes.
        format!("{outside}: {of}, L2 index: {index})")
    }

    fn of_l1(&self, index: usize, met: &Met) -> Corruption {
        let (word, cluster) = (self.tables.l1(index), self.geometry.cluster());
        let (host, place) = (word & OFFSET, format!("(L1 index: {})", qemu_hex(index)));
        if self.geometry.decode_l1(word).is_ok() {
            let bytes = host..host + cluster;
            return self.of_place(&format!("L2 table offset {host:#x}"), &place, bytes.clone(), bytes, met);
        }
        let text = match self.geometry.in_cluster(host) {
            0 => format!("L1 entry {word:#x} has reserved bits set {place}"),
            _ => format!("L2 table offset {host:#x} unaligned {place}"),
        };
        Corruption { text, bytes: None, fatal: true }
    }

    /// What leads to where it must not.
    fn of_place(&self, what: &str, entry: &str, place: Range<u64>, bytes: Range<u64>, met: &Met) -> Corruption {
        match self.tables.metadata().overlapping(place) {
            Some(structure) if met.writes => {
                let text = format!("Preventing invalid write on metadata (overlaps with {})", structure.name());
                Corruption { text, bytes: Some(bytes), fatal: true }
            }
            Some(structure) => {
                let text = format!("{what} overlaps with {} {entry}", structure.name());
                Corruption { text, bytes: None, fatal: false }
            }
            None => Corruption { text: format!("{what} is outside the file {entry}"), bytes: None, fatal: false },
        }
    }

    /// What is said when an entry that is no good is dropped: what it led to cannot be freed.
    pub(in crate::node::qcow2) fn dropped(word: u64) -> Corruption {
        let host = Tables::unmarked(word) & OFFSET;
        Corruption { text: format!("Cannot free unaligned cluster {host:#x}"), bytes: None, fatal: false }
    }
}

/// A number as C prints it: without a prefix where it is zero.
pub(super) fn qemu_hex<N: std::fmt::LowerHex + Default + PartialEq>(number: N) -> String {
    if number == N::default() { "0".to_owned() } else { format!("{number:#x}") }
}

/// Where an entry leads that obeys the format.
fn place_of(geometry: Geometry, word: u64) -> Option<(u64, u64)> {
    match geometry.decode(word) {
        Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } => Some((host, geometry.cluster())),
        Entry::Compressed { host, len } => Some((host, len)),
        _ => None,
    }
}

/// What a writer says of an entry whose offset is no cluster's.
fn unaligned(geometry: Geometry, word: u64) -> Option<String> {
    let host = word & OFFSET;
    let what = if word & 1 != 0 { "Preallocated zero" } else { "Data" };
    let wrong = word & COMPRESSED == 0 && geometry.in_cluster(host) != 0;
    wrong.then(|| format!("{what} cluster offset {host:#x} unaligned"))
}

/// What is wrong with an entry that does not.
fn fault_of(geometry: Geometry, word: u64) -> String {
    let host = word & OFFSET;
    match word & COMPRESSED != 0 {
        true if geometry.external_data => "Compressed cluster entry found in image with external data file".to_owned(),
        true => format!("Compressed cluster entry {word:#x} has reserved bits set"),
        false if geometry.in_cluster(host) != 0 => format!("Cluster allocation offset {host:#x} unaligned"),
        false if word & 1 != 0 && geometry.version < 3 => "Zero cluster entry found in pre-v3 image".to_owned(),
        false => format!("Cluster allocation entry {word:#x} has reserved bits set"),
    }
}
