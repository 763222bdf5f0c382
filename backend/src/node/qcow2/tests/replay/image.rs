//! Images of every kind to begin with, made by QEMU's tools.

use crate::node::qcow2::tests::model::{SECTOR, bytes};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// What is special about an image and what is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// Its refcount table has to move.
    Growing,
    /// An internal snapshot shares all of its tables and clusters.
    Snapshot,
    /// The guest's clusters are in a file of their own.
    DataFile,
    /// A raw file shows where it has nothing.
    Backing,
    /// Version 2.
    Old,
    /// Much is discarded, and used again.
    Discards,
    /// It has more tables than there is memory for.
    ManyTables,
    /// It becomes longer meanwhile.
    Resized,
    /// Clusters that it begins with are compressed.
    Compressed,
    /// Storage is slow at times, so that requests overtake each other.
    Slow,
    /// Writes fail at times.
    WriteErrors,
    /// Flushes fail at times.
    FlushErrors,
    /// Most writes of the L1 table fail, and may have been done.
    TableErrors,
    /// Snapshots of it are taken and deleted meanwhile.
    Snapshots,
    /// The same with writes that fail at times.
    SnapshotErrors,
}

/// All of them.
pub const KINDS: [Kind; 16] = [
    Kind::Plain,
    Kind::Growing,
    Kind::Snapshot,
    Kind::DataFile,
    Kind::Backing,
    Kind::Old,
    Kind::Discards,
    Kind::ManyTables,
    Kind::Resized,
    Kind::Compressed,
    Kind::Slow,
    Kind::WriteErrors,
    Kind::FlushErrors,
    Kind::TableErrors,
    Kind::Snapshots,
    Kind::SnapshotErrors,
];

/// An image and what its guest finds.
pub struct Made {
    /// The image, then whatever else belongs to it.
    pub files: Vec<Vec<u8>>,
    /// The number of its backing file.
    pub backing: Option<usize>,
    /// The number of its data file.
    pub data: Option<usize>,
    /// By sector.
    pub content: Vec<u64>,
}

/// Numbers for an image.
struct Shape {
    cluster_bits: usize,
    clusters: usize,
    options: String,
}

fn shape(kind: Kind, random: &mut fastrand::Rng) -> Shape {
    let cluster_bits = match kind {
        Kind::Growing | Kind::ManyTables | Kind::Resized | Kind::TableErrors => 9,
        // What is taken ahead is soon used up then, and freed clusters are used again.
        Kind::Slow => 16,
        _ => random.choice([9, 10, 12, 12, 16]).unwrap(),
    };
    let clusters = match (kind, cluster_bits) {
        (Kind::Growing, _) => 5000,
        // Sixteen tables of sixty-four clusters are in memory; the L1 table may have more than a sector.
        (Kind::ManyTables, _) => random.usize(1500..6000),
        // As many tables as are in memory at most.
        (Kind::TableErrors, _) => random.usize(700..1000),
        (_, 16) => random.usize(2..20),
        (_, 12) => random.usize(2..200),
        _ => random.usize(2..800),
    };
    let refcount_bits = if kind == Kind::Growing { 64 } else { 1 << random.u32(0..7) };
    let refcount_bits = match kind {
        Kind::Snapshot => refcount_bits.max(2),
        // Two snapshots and the disk.
        Kind::Snapshots | Kind::SnapshotErrors => refcount_bits.max(4),
        _ => refcount_bits,
    };
    let mut options = format!("cluster_size={}", 1 << cluster_bits);
    match kind {
        Kind::Old => options += ",compat=0.10",
        _ => options += &format!(",refcount_bits={refcount_bits}"),
    }
    if kind == Kind::DataFile {
        options += &format!(",data_file=data,data_file_raw={}", if random.bool() { "on" } else { "off" });
    }
    Shape { cluster_bits, clusters, options }
}

fn tool(directory: &Path, tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).current_dir(directory).output().expect("QEMU's tools are there");
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("failed"), "{tool} {arguments:?}: {text}");
}

/// An image of this kind.
pub fn make(kind: Kind, random: &mut fastrand::Rng) -> Made {
    let directory = tempfile::tempdir().unwrap();
    let Shape { cluster_bits, clusters, options } = shape(kind, random);
    let sectors = (clusters << (cluster_bits - 9)) + random.usize(0..5);
    let mut content = vec![0; sectors];
    let size = (sectors * SECTOR).to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", &options];
    // A cluster that an entry leads to too early hides content then.
    let backed = matches!(kind, Kind::Backing | Kind::TableErrors);
    if backed {
        let least = if kind == Kind::TableErrors { sectors } else { 1 };
        let length = random.usize(least..=sectors);
        fill(&directory, "base", &mut content[..length], random);
        arguments.extend(["-b", "base", "-F", "raw"]);
    }
    arguments.extend(["image", &size]);
    tool(directory.path(), "qemu-img", &arguments);
    prepare(kind, &directory, &mut content, cluster_bits, random);
    if kind == Kind::Snapshot {
        tool(directory.path(), "qemu-img", &["snapshot", "-c", "before", "image"]);
    }
    let read = |name: &str| std::fs::read(directory.path().join(name));
    let mut files = vec![read("image").unwrap()];
    let mut other = |wanted: bool, name| {
        wanted.then(|| {
            files.push(read(name).unwrap());
            files.len() - 1
        })
    };
    let backing = other(backed, "base");
    let data = other(kind == Kind::DataFile, "data");
    Made { files, backing, data, content }
}

/// A file with sectors that hold a number each, which becomes their content.
fn fill(directory: &TempDir, name: &str, content: &mut [u64], random: &mut fastrand::Rng) {
    content.iter_mut().for_each(|value| *value = random.u64(1..1 << 31) << 32);
    let raw: Vec<u8> = content.iter().flat_map(|value| bytes(*value, 1)).collect();
    std::fs::write(directory.path().join(name), raw).unwrap();
}

/// Gives an image something to begin with.
fn prepare(kind: Kind, directory: &TempDir, content: &mut [u64], cluster_bits: usize, random: &mut fastrand::Rng) {
    let per_cluster = 1 << (cluster_bits - 9);
    let pieces = match kind {
        Kind::Growing => 1,
        // The guest makes the tables.
        Kind::TableErrors => 0,
        // QEMU does not write a compressed cluster where there is one already.
        Kind::Compressed => random.usize(0..2),
        _ => random.usize(0..4),
    };
    let most = content.len() / per_cluster;
    for piece in 0..pieces {
        let (first, count) = match kind {
            // A table of one cluster counts 4096: with the image's own there is room for few more.
            Kind::Growing => (0, random.usize(3600..3850)),
            _ => {
                let first = random.usize(0..most);
                (first, random.usize(1..=most - first))
            }
        };
        let sectors = first * per_cluster..(first + count) * per_cluster;
        let name = format!("piece{piece}");
        fill(directory, &name, &mut content[sectors.clone()], random);
        let (offset, len) = (sectors.start * SECTOR, sectors.len() * SECTOR);
        let compressed = if kind == Kind::Compressed { "-c " } else { "" };
        let write = format!("write -q {compressed}-s {name} {offset} {len}");
        tool(directory.path(), "qemu-io", &["-f", "qcow2", "-c", &write, "image"]);
    }
}
