//! Checking an image finds what `qemu-img check` finds.

use super::counts::{geometry, number};
use super::machine::{Machine, qemu_img};
use crate::node::qcow2::refcount::check::{CheckReport, Contested, Directory, Parts, check};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

fn field(content: &[u8], at: usize) -> u32 {
    u32::try_from(number(content, at, 4)).unwrap()
}

/// The bitmaps extension of an image whose first extension's place is fixed.
fn bitmaps(content: &[u8]) -> Option<Directory> {
    let mut at = usize::try_from(number(content, 100, 4)).unwrap();
    loop {
        let (kind, len) = (number(content, at, 4), usize::try_from(number(content, at + 4, 4)).unwrap());
        match kind {
            0 => return None,
            0x2385_2875 => {
                let (size, offset) = (number(content, at + 16, 8), number(content, at + 24, 8));
                return Some(Directory { count: field(content, at + 8), offset, size });
            }
            _ => at += 8 + len.next_multiple_of(8),
        }
    }
}

fn parts(content: &[u8]) -> Parts {
    let mut geometry = geometry(content);
    geometry.external_data = number(content, 72, 8) & 4 != 0;
    Parts {
        geometry,
        size: number(content, 24, 8),
        l1_offset: number(content, 40, 8),
        l1_entries: field(content, 36),
        reftable_offset: number(content, 48, 8),
        reftable_clusters: field(content, 56),
        snapshots_offset: number(content, 64, 8),
        snapshots: field(content, 60),
        bitmaps: bitmaps(content),
    }
}

fn ours(content: &[u8]) -> CheckReport {
    let parts = parts(content);
    let mut machine = Machine::new(1, content.to_vec());
    let store = machine.store();
    let report = machine.run(|io| Box::pin(async move { check(&io, store, parts).await })).unwrap();
    // QEMU does not tell of that.
    CheckReport { contested: Contested::default(), ..report }
}

/// What QEMU finds, if it does not give up; messages that tell of errors and leaks, sorted.
fn qemus(path: &Path) -> Option<CheckReport> {
    let output = Command::new("qemu-img").args(["check", "--output", "json"]).arg(path).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if errors.contains("qemu-img:") {
        return None;
    }
    let count = |name: &str| {
        let after = text.split_once(&format!("\"{name}\": ")).map(|(_, after)| after);
        after.map_or(0, |after| after.split([',', '\n']).next().unwrap().parse().unwrap())
    };
    let is_ours = |line: &&str| ["ERROR", "Leaked", "Can't"].iter().any(|start| line.starts_with(start));
    Some(CheckReport {
        image_end_offset: count("image-end-offset"),
        total_clusters: count("total-clusters"),
        check_errors: count("check-errors"),
        corruptions: count("corruptions"),
        leaks: count("leaks"),
        allocated_clusters: count("allocated-clusters"),
        compressed_clusters: count("compressed-clusters"),
        fragmented_clusters: count("fragmented-clusters"),
        errors: errors.lines().filter(is_ours).map(str::to_owned).collect(),
        ..CheckReport::default()
    })
}

fn io(path: &Path, commands: &[&str]) {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    assert!(Command::new("qemu-io").args(commands).arg(path).output().expect("qemu-io").status.success());
}

/// Images with everything that refers to clusters.
fn images(directory: &TempDir) -> Vec<PathBuf> {
    let path = |name: &str| directory.path().join(name);
    let create = |name: &str, options: &str| {
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options], &path(name), &["8M"]);
        path(name)
    };
    let full = create("full", "cluster_size=4k,refcount_bits=8");
    io(&full, &["write 0 300k", "write 1M 70k", "write -z 3M 64k", "write 5M 4k"]);
    qemu_img(&["snapshot", "-c", "first"], &full, &[]);
    io(&full, &["write 4k 64k", "discard 1M 32k"]);
    qemu_img(&["bitmap", "--add"], &full, &["b0"]);
    io(&full, &["write 2M 4k"]);
    qemu_img(&["snapshot", "-c", "second"], &full, &[]);
    let packed = path("packed");
    let half: Vec<u8> = (0..2_000_000u32).map(|at| u8::try_from(at / 7 % 251).unwrap() ^ (at % 3 == 0) as u8).collect();
    std::fs::write(path("raw"), half).unwrap();
    let from = path("raw");
    let options = ["convert", "-c", "-O", "qcow2", "-f", "raw", "-o", "cluster_size=16k", from.to_str().unwrap()];
    qemu_img(&options, &packed, &[]);
    let apart = create("apart", &format!("cluster_size=64k,data_file={}", path("data").display()));
    io(&apart, &["write 0 1M", "write 3M 64k", "write -z 4M 1M"]);
    vec![full, packed, apart]
}

/// Offsets of words that refer to clusters or count them.
fn words(content: &[u8]) -> Vec<u64> {
    let (parts, cluster) = (parts(content), geometry(content).cluster());
    let at = |offset: u64| number(content, usize::try_from(offset).unwrap(), 8);
    let l1 = parts.l1_offset..parts.l1_offset + u64::from(parts.l1_entries) * 8;
    let mut words: Vec<u64> = l1.step_by(8).collect();
    let tables: Vec<u64> = words.iter().map(|word| at(*word) & OFFSET).filter(|table| *table != 0).collect();
    words
        .extend(tables.into_iter().flat_map(|table| (table..table + cluster).step_by(8)).filter(|word| at(*word) != 0));
    words.extend((0..4).map(|entry| parts.reftable_offset + entry * 8));
    let block = at(parts.reftable_offset);
    words.extend((block..block + 512).step_by(8));
    if parts.snapshots > 0 {
        words.push(parts.snapshots_offset);
    }
    if let Some(directory) = parts.bitmaps {
        words.push(at(directory.offset));
    }
    words
}

#[test]
fn sound_images_are_sound() {
    let directory = TempDir::new().unwrap();
    for path in images(&directory) {
        let report = ours(&std::fs::read(&path).unwrap());
        assert_eq!(Some(&report), qemus(&path).as_ref(), "{path:?}");
        assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0));
        println!("{path:?}: {report:?}");
    }
}

#[test]
fn broken_images_are_as_broken_as_qemu_finds_them() {
    let directory = TempDir::new().unwrap();
    let broken = directory.path().join("broken");
    let mut random = fastrand::Rng::with_seed(7);
    for path in images(&directory) {
        let sound = std::fs::read(&path).unwrap();
        let (words, mut compared) = (words(&sound), 0);
        for _ in 0..60 {
            let mut content = sound.clone();
            let at = usize::try_from(words[random.usize(0..words.len())]).unwrap();
            let bit = random.u32(0..64);
            content[at + bit as usize / 8] ^= 1 << (bit % 8);
            std::fs::write(&broken, &content).unwrap();
            let mut report = ours(&content);
            let Some(mut expected) = qemus(&broken) else { continue };
            report.errors.sort();
            expected.errors.sort();
            assert_eq!(report, expected, "{path:?}: bit {bit} of the word at {at:#x}");
            compared += 1;
        }
        println!("{path:?}: {compared} of 60 compared");
        assert!(compared >= 30, "{path:?}: QEMU gave up too often, {compared}");
    }
}
