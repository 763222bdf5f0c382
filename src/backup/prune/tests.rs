//! What becomes of a manifest, step by step.

use super::super::manifest::tests::{entry, manifest, sums};
use super::*;
use std::collections::BTreeSet;

fn files(manifest: &Manifest) -> BTreeSet<String> {
    let of_points = manifest.entries().flat_map(Entry::files).map(str::to_owned);
    of_points.chain(manifest.garbage.iter().cloned()).collect()
}

/// All of a prune but its I/O; each manifest that is stored has to be one that is read again.
fn prune(manifest: &mut Manifest, first: usize) {
    let merges = merges(manifest, first);
    manifest.next += 1;
    manifest.discard(merges.iter().map(|merge| merge.sums.clone()));
    stored(manifest);
    let before = files(manifest);
    drop_points(manifest, first, merges.into_iter().map(|merge| ("0".repeat(64), merge)).collect());
    stored(manifest);
    assert_eq!(files(manifest), before, "a file that nobody knows of any more, or that was never made");
    for file in manifest.entries().map(|entry| entry.file.clone()).collect::<Vec<_>>() {
        settle(manifest, &file);
        stored(manifest);
    }
}

fn stored(manifest: &Manifest) {
    assert_eq!(Manifest::parse(&manifest.text().unwrap()).unwrap(), *manifest);
}

#[test]
fn the_oldest_point_that_stays_becomes_full_and_the_others_stay_as_they_are() {
    let mut manifest = manifest();
    prune(&mut manifest, 3);
    let numbers: Vec<_> = manifest.points.iter().map(|point| point.number).collect();
    assert_eq!(numbers, [4, 5]);
    for disk in ["a", "b"] {
        let name = |number: u64| format!("{disk}-{number}.qcow2");
        let entries: Vec<_> = manifest.points.iter().filter_map(|point| point.disk(disk)).collect();
        assert_eq!((&entries[0].file, &entries[0].parent), (&name(4), &None), "{disk}");
        assert_eq!(entries[0].checksums.file, format!("{disk}-4-merged-6.sums"));
        assert_eq!(*entries[1], entry(disk, 5, Some(4)));
    }
    let garbage: BTreeSet<_> = manifest.garbage.iter().map(String::as_str).collect();
    // Those of disk a before its second full backup belong to no merge; the images at the bottom got other names.
    let expected = [
        "a-1.qcow2",
        "a-1.sums",
        "a-2.qcow2",
        "a-2.sums",
        "a-3.sums",
        "a-4.sums",
        "b-1.sums",
        "b-3.qcow2",
        "b-3.sums",
        "b-4.sums",
    ];
    assert_eq!(garbage, expected.into_iter().collect());
}

#[test]
fn a_full_backup_that_becomes_the_oldest_is_not_touched() {
    let mut manifest = manifest();
    assert_eq!(merges(&manifest, 2).iter().map(|merge| merge.chain[0].as_str()).collect::<Vec<_>>(), ["b-1.qcow2"]);
    let full = manifest.points[2].disk("a").unwrap().clone();
    prune(&mut manifest, 2);
    assert_eq!(*manifest.points[0].disk("a").unwrap(), full);
}

#[test]
fn a_directory_can_be_pruned_again_and_again() {
    let mut manifest = manifest();
    for _ in 0..4 {
        prune(&mut manifest, 1);
        manifest.garbage.clear();
    }
    let left: Vec<_> = manifest.entries().map(|entry| (entry.file.as_str(), entry.parent.clone())).collect();
    assert_eq!(left, [("a-5.qcow2", None), ("b-5.qcow2", None)]);
    assert_eq!(files(&manifest).len(), 4);
}

#[test]
fn points_are_kept_by_number_or_by_time_and_the_newest_always() {
    let manifest = manifest();
    let first = |keep: Option<u32>, before: Option<&str>| {
        let before = before.map(|text| moment(text).unwrap());
        first_kept(&manifest, &PruneOptions { dir: PathBuf::new(), keep, before }).unwrap()
    };
    assert_eq!([1, 2, 5, 9].map(|keep| first(Some(keep), None)), [4, 3, 0, 0]);
    let times = ["2025-01-01T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-03T00:00:01Z", "2030-01-01T00:00:00Z"];
    assert_eq!(times.map(|time| first(None, Some(time))), [0, 2, 3, 4]);
    assert!(moment("2026-13-01").is_err() && moment("2026-01-31").is_ok());
}

#[test]
fn a_merge_that_is_under_way_is_believed_only_of_a_chains_beginning() {
    let mut manifest = manifest();
    let merging = Merging { base: "x".to_owned(), layers: Vec::new(), checksums: sums("y"), spent: Vec::new() };
    manifest.points[4].disks[0].merging = Some(merging.clone());
    assert!(Manifest::parse(&manifest.text().unwrap()).is_err());
    manifest.points[4].disks[0].merging = None;
    manifest.points[0].disks[0].merging = Some(merging);
    assert!(Manifest::parse(&manifest.text().unwrap()).is_err(), "a full backup");
}
