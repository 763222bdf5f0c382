//! Whether an image has come through a power cut: looked at by its check, by QEMU's, through its node, and by going on.

use super::guest::Guest;
use super::image::{Kind, Made};
use super::past::Past;
use super::stream::Stream;
use crate::node::qcow2::entry::{Entry, Geometry};
use crate::node::qcow2::header::{Header, bits};
use crate::node::qcow2::open::read_header;
use crate::node::qcow2::refcount::check::{CheckReport, Parts, check};
use crate::node::qcow2::store::Store;
use crate::node::qcow2::tests::machine::Machine;
use crate::node::qcow2::tests::model::SECTOR;
use std::process::Command;

/// Numbers of what is written after a cut start here: none was written before.
const AFTERWARDS: u64 = 1 << 40;

/// Looks at what a cut has left.
///
/// # Panics
/// If it is not what was promised.
pub fn judge(stream: &Stream, events: usize, files: Vec<Vec<u8>>, seed: u64, beside_qemu: bool) {
    let Made { backing, data, .. } = stream.made;
    let files = repaired(files, stream);
    let leaks = sound(&files[0], "after the cut");
    stream.points.judge(&files[0], events);
    if stream.kind == Kind::Snapshot {
        assert!(snapshot(&files[0]) == snapshot(&stream.made.files[0]), "the snapshot has changed");
    }
    if beside_qemu {
        qemu_finds_nothing(&files, data);
    }
    let cut = files[0].clone();
    let content = vec![0; stream.past.len()];
    let kind = if stream.kind == Kind::Discards { Kind::Discards } else { Kind::Plain };
    let mut guest = Guest::new(seed, kind, &Made { files, backing, data, content }, AFTERWARDS);
    let found = guest.content();
    assert_eq!(stream.past.judge_cut(&found, events), None, "blocks after the cut");
    let content: Vec<u64> =
        found.chunks(SECTOR).map(|sector| u64::from_le_bytes(*sector.first_chunk().unwrap())).collect();
    guest.past = Past::new(&content);
    guest.load(8);
    guest.verify();
    guest.close();
    let files = guest.machine.contents();
    let leaks_then = sound(&files[0], "after it was closed");
    if leaks_then > leaks {
        // Where the file ended before what its counts say, none of that was counted as leaked.
        let leaks = sound(&padded(cut, files[0].len()), "after the cut, with the length of the whole");
        assert!(leaks_then <= leaks, "{leaks_then} clusters leak where {leaks} leaked after the cut");
    }
    if stream.kind == Kind::Snapshot {
        assert!(snapshot(&files[0]) == snapshot(&stream.made.files[0]), "the snapshot has changed afterwards");
    }
    stream.points.judge(&files[0], events);
    if beside_qemu {
        qemu_finds_nothing(&files, data);
    }
}

/// An image that says that its counts may be wrong has them made right by whoever opens it.
fn repaired(files: Vec<Vec<u8>>, stream: &Stream) -> Vec<Vec<u8>> {
    if number(&files[0], 72, 8) & bits::INCOMPATIBLE_DIRTY == 0 || number(&files[0], 4, 4) < 3 {
        return files;
    }
    let Made { backing, data, .. } = stream.made;
    let content = vec![0; stream.past.len()];
    let mut guest = Guest::new(1, Kind::Plain, &Made { files, backing, data, content }, AFTERWARDS);
    guest.close();
    guest.machine.contents()
}

fn padded(mut image: Vec<u8>, length: usize) -> Vec<u8> {
    image.resize(length.max(image.len()), 0);
    image
}

fn parts(header: &Header) -> Parts {
    Parts {
        geometry: header.geometry(),
        size: header.size,
        l1_offset: header.l1_offset,
        l1_entries: header.l1_entries,
        reftable_offset: header.reftable_offset,
        reftable_clusters: header.reftable_clusters,
        snapshots_offset: header.snapshots_offset,
        snapshots: header.snapshots,
        bitmaps: None,
    }
}

/// Looks for corruptions; how many clusters leak.
pub fn sound(image: &[u8], when: &str) -> u64 {
    let mut machine = Machine::new(1, &[image.to_vec()], 1);
    let file = machine.file(0);
    let report: CheckReport = machine.run(|io| async move {
        let header = read_header(&io, &file).await.unwrap();
        check(&io, Store::new(file), parts(&header)).await.unwrap()
    });
    assert_eq!((report.corruptions, report.check_errors), (0, 0), "{when}: {:?}", report.errors);
    report.leaks
}

/// `qemu-img check` ends with 0, or 3 where clusters leak.
fn qemu_finds_nothing(files: &[Vec<u8>], data: Option<usize>) {
    let directory = tempfile::tempdir().unwrap();
    let write = |number: usize| {
        let path = directory.path().join(format!("file{number}"));
        std::fs::write(&path, &files[number]).unwrap();
        format!(r#"{{"driver": "file", "filename": "{}"}}"#, path.display())
    };
    let data = data.map_or(String::new(), |number| format!(r#", "data-file": {}"#, write(number)));
    let image = format!(r#"json:{{"driver": "qcow2", "backing": null, "file": {}{data}}}"#, write(0));
    let output = Command::new("qemu-img").args(["check", &image]).output().expect("qemu-img is there");
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
}

fn number(bytes: &[u8], at: u64, len: usize) -> u64 {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + len].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What the first snapshot of an image holds: every cluster that its tables lead to.
fn snapshot(image: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let geometry = Geometry {
        version: 3,
        cluster_bits: u32::try_from(number(image, 20, 4)).unwrap(),
        refcount_order: 4,
        external_data: false,
        extended: false,
    };
    let entry = number(image, 64, 8);
    let (l1, entries) = (number(image, entry, 8), number(image, entry + 8, 4));
    let words = |at: u64, count: u64| (0..count).map(move |index| number(image, at + index * 8, 8)).collect::<Vec<_>>();
    let tables = words(l1, entries).into_iter().map(|word| geometry.decode_l1(word).unwrap());
    let cluster = |(index, word)| match geometry.decode(word) {
        Entry::Data { host, .. } => {
            let at = usize::try_from(host).unwrap();
            let end = image.len().min(at + usize::try_from(geometry.cluster()).unwrap());
            Some((index, image[at..end].to_vec()))
        }
        Entry::Unallocated | Entry::Zero { .. } => None,
        other => panic!("a snapshot's entry is {other:?}"),
    };
    let all = tables.map(|table| table.map_or(Vec::new(), |(host, _)| words(host, geometry.l2_entries() as u64)));
    (0..).zip(all.flatten()).filter_map(cluster).collect()
}
