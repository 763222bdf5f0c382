//! Which operations have met clusters in which states, and in which shapes they came.

use crate::node::Kind;
use crate::node::qcow2::entry::Entry;
use crate::node::qcow2::image::Image;
use std::ops::Range;

/// What a guest may ask for; a flush meets no cluster.
const OPERATIONS: [&str; 6] = ["read", "write", "write, FUA", "zero", "zero, unmap", "discard"];

/// What a cluster may be when it is met.
const STATES: [&str; 12] = [
    "unallocated",
    "over backing",
    "past its end",
    "zero, plain",
    "zero, own",
    "zero, shared",
    "data, own",
    "data, shared",
    "compressed",
    "data, outside",
    "zero, outside",
    "table shared",
];

/// How an operation may lie on clusters.
const SHAPES: [&str; 6] = ["inside one", "one", "several", "head", "tail", "head, tail"];

/// How often.
#[derive(Default)]
pub struct Coverage {
    states: [[u64; OPERATIONS.len()]; STATES.len()],
    shapes: [[u64; OPERATIONS.len()]; SHAPES.len()],
    flushes: u64,
}

/// Where an operation is in [`OPERATIONS`].
fn operation(kind: Kind, fua: bool) -> Option<usize> {
    match kind {
        Kind::Read => Some(0),
        Kind::Write => Some(1 + usize::from(fua)),
        Kind::Zero { unmap } => Some(3 + usize::from(unmap)),
        Kind::Discard => Some(5),
        Kind::Flush => None,
    }
}

/// Where a cluster's state is in [`STATES`]. What is not "own" has an entry that says so: a count of one is said by it.
fn state(image: &Image, entry: Entry, offset: u64) -> Option<usize> {
    let outside = image.geometry.external_data;
    match entry {
        Entry::Unallocated => match image.backing() {
            None => Some(0),
            Some(backing) if offset < backing.length() => Some(1),
            Some(_) => Some(2),
        },
        Entry::Zero { host: None, .. } => Some(3),
        Entry::Zero { .. } if outside => Some(10),
        Entry::Zero { copied, .. } => Some(if copied { 4 } else { 5 }),
        Entry::Data { .. } if outside => Some(9),
        Entry::Data { copied, .. } => Some(if copied { 6 } else { 7 }),
        Entry::Compressed { .. } => Some(8),
        Entry::Invalid => None,
    }
}

/// Where the shape of these bytes is in [`SHAPES`].
fn shape(bytes: &Range<u64>, cluster: u64) -> usize {
    let (head, tail) = (!bytes.start.is_multiple_of(cluster), !bytes.end.is_multiple_of(cluster));
    let clusters = bytes.end.div_ceil(cluster) - bytes.start / cluster;
    match (head, tail, clusters) {
        (false, false, 1) => 1,
        (_, _, 1) => 0,
        (false, false, _) => 2,
        (true, false, _) => 3,
        (false, true, _) => 4,
        (true, true, _) => 5,
    }
}

impl Coverage {
    /// An operation on these bytes begins; `entry` says what an offset's cluster is.
    pub fn note(&mut self, image: &Image, (kind, fua): (Kind, bool), bytes: &Range<u64>, entry: impl Fn(u64) -> Entry) {
        let Some(column) = operation(kind, fua) else {
            self.flushes += 1;
            return;
        };
        let cluster = image.geometry.cluster();
        self.shapes[shape(bytes, cluster)][column] += 1;
        let mut offset = image.geometry.cluster_start(bytes.start);
        while offset < bytes.end {
            let shared = matches!(image.tables.table(image.geometry.l1_index(offset)), Ok(Some((_, false))));
            let states = [state(image, entry(offset), offset), shared.then_some(11)];
            states.into_iter().flatten().for_each(|row| self.states[row][column] += 1);
            offset += cluster;
        }
    }

    /// The cells that nothing has come to.
    pub fn empty(&self) -> Vec<String> {
        let name = |names: &[&str], row: usize, column: usize| format!("{} of {}", OPERATIONS[column], names[row]);
        let mut found = Vec::new();
        for (names, rows) in [(&STATES[..], &self.states[..]), (&SHAPES[..], &self.shapes[..])] {
            for (row, cells) in rows.iter().enumerate() {
                let empty = cells.iter().enumerate().filter(|(_, count)| **count == 0);
                found.extend(empty.map(|(column, _)| name(names, row, column)));
            }
        }
        found
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (title, names, rows) in
            [("clusters met", &STATES[..], &self.states[..]), ("requests", &SHAPES[..], &self.shapes[..])]
        {
            write!(out, "{title:<14}")?;
            OPERATIONS.iter().try_for_each(|name| write!(out, "{name:>13}"))?;
            writeln!(out)?;
            for (name, cells) in names.iter().zip(rows) {
                write!(out, "{name:<14}")?;
                cells.iter().try_for_each(|count| write!(out, "{count:>13}"))?;
                writeln!(out)?;
            }
        }
        writeln!(out, "flushes       {:>13}", self.flushes)
    }
}
