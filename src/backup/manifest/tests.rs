//! Manifests that are believed, and those that are not.

use super::*;

/// A disk of 1 GiB at point `number`, above the one of point `below`, with bitmap `b<number>`.
pub fn entry(disk: &str, number: u64, below: Option<u64>) -> Entry {
    let name = |number: u64| format!("{disk}-{number}.qcow2");
    Entry {
        disk: disk.to_owned(),
        file: name(number),
        parent: below.map(name),
        size: 1 << 30,
        checksums: sums(&format!("{disk}-{number}.sums")),
        bitmap: Some(Bitmap { name: format!("b{number}"), granularity: 65536, persistent: true }),
        change_id: None,
        full_because: None,
        merging: None,
    }
}

/// Checksums in this file.
pub fn sums(file: &str) -> Checksums {
    Checksums { file: file.to_owned(), algorithm: ALGORITHM.to_owned(), block: BLOCK, sha256: "0".repeat(64) }
}

/// Points 1 to 5 of disks `a` and `b`; `a` has a second full backup at 3, and `b` is not in 2.
pub fn manifest() -> Manifest {
    let mut manifest = Manifest::new("0a1b2c3d".to_owned());
    manifest.next = 6;
    let below_a = [None, Some(1), None, Some(3), Some(4)];
    let below_b = [None, None, Some(1), Some(3), Some(4)];
    for (number, (a, b)) in (1..).zip(below_a.into_iter().zip(below_b)) {
        let mut disks = vec![entry("a", number, a)];
        disks.extend((number != 2).then(|| entry("b", number, b)));
        manifest.points.push(Point { number, time: format!("2026-01-0{number}T00:00:00Z"), disks });
    }
    manifest
}

#[test]
fn a_manifest_comes_back_as_it_was_written() {
    let mut manifest = manifest();
    manifest.garbage.push("left-over".to_owned());
    manifest.points[0].disks[0].full_because = Some("\"first\" \u{e9}".to_owned());
    assert_eq!(Manifest::parse(&manifest.text().unwrap()).unwrap(), manifest);
}

#[test]
fn a_chain_begins_with_the_last_full_backup_of_the_disk() {
    let manifest = manifest();
    let files = |number, disk| -> Vec<String> {
        let entry = manifest.point(Some(number)).unwrap().disk(disk).unwrap();
        manifest.chain(entry).into_iter().map(|entry| entry.file.clone()).collect()
    };
    assert_eq!(files(2, "a"), ["a-1.qcow2", "a-2.qcow2"]);
    assert_eq!(files(5, "a"), ["a-3.qcow2", "a-4.qcow2", "a-5.qcow2"]);
    assert_eq!(files(5, "b"), ["b-1.qcow2", "b-3.qcow2", "b-4.qcow2", "b-5.qcow2"]);
}

#[test]
fn what_contradicts_itself_or_leads_elsewhere_is_refused() {
    type Change = fn(&mut Manifest);
    let changes: [(Change, &str); 17] = [
        (|it| it.version = 2, "version 2"),
        (|it| it.format = "other".to_owned(), "not the manifest"),
        (|it| it.id = "../..".to_owned(), "8 hexadecimal"),
        (|it| it.next = 5, "point 5 is out of order"),
        (|it| it.points[1].number = 1, "point 1 is out of order"),
        (|it| it.points[0].disks[0].file = "/etc/passwd".to_owned(), "no name of a file"),
        (|it| it.points[0].disks[0].checksums.file = "..".to_owned(), "no name of a file"),
        (|it| it.points[0].disks[0].file = "nbd:x".to_owned(), "no name of a file"),
        (|it| it.garbage.push("manifest.json".to_owned()), "no name of a file"),
        (|it| it.garbage.push("a-1.qcow2".to_owned()), "named twice"),
        (|it| it.points[4].disks[0].parent = Some("a-2.qcow2".to_owned()), "is not the point before it"),
        (|it| it.points[4].disks[0].parent = Some("b-4.qcow2".to_owned()), "is not the point before it"),
        (|it| it.points[4].disks[0].size = 512, "its size differs"),
        (|it| it.points[0].disks[0].size = 513, "no disk has 513 bytes"),
        (|it| it.points[0].time = "yesterday".to_owned(), "point 1 has no time: 'yesterday'"),
        (|it| it.points[0].disks[1].disk = "a".to_owned(), "has disk 'a' twice"),
        (|it| it.points[0].disks[0].checksums.algorithm = "md5".to_owned(), "'md5'"),
    ];
    for (change, words) in changes {
        let mut manifest = manifest();
        change(&mut manifest);
        let error = format!("{:#}", Manifest::parse(&manifest.text().unwrap()).unwrap_err());
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn what_is_no_manifest_is_refused() {
    let good = manifest().text().unwrap();
    let unknown = good.replacen("\"next\"", "\"nxt\"", 1);
    for text in ["", "{", "[]", "{}", "{\"format\": \"tidemark-backup\"}", &good[..good.len() / 2], &unknown] {
        assert!(Manifest::parse(text).is_err(), "{text}");
    }
}
