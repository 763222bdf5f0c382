//! Whole clusters written compressed among other requests: what a guest reads is what was written, QEMU reads the same,
//! and every count is right, whatever its width.

use super::machine::Machine;
use super::random::check;
use crate::io::{Buf, Memory, byte_count};
use crate::node::qcow2::open::Options;
use crate::node::{Driver, Kind, Node, Request};
use std::process::Command;
use std::sync::Arc;

const OPTIONS: Options = Options {
    read_only: false,
    l2_cache_bytes: 0,
    refcount_cache_bytes: 0,
    pass_discard: false,
    journal: None,
    changes: None,
};

fn qemu_img(directory: &tempfile::TempDir, arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn run(machine: &mut Machine, kind: Kind, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let memory = if kind.moves() { Memory::from(Buf::copy_of(bytes)) } else { Memory::empty() };
    let request = Request { kind, fua: false, offset: offset as u64, len: bytes.len() as u64, memory };
    let slot = machine.begin(0, request);
    while slot.borrow().is_none() {
        assert!(machine.step() || slot.borrow().is_some(), "a hang");
    }
    let (memory, result) = slot.take().unwrap();
    result.unwrap();
    memory.into_buf().map(|buf| buf.as_slice().to_vec()).unwrap_or_default()
}

fn with_image(machine: &mut Machine, what: impl AsyncFnOnce(&Arc<Node>, crate::reactor::Handle) + 'static) {
    let node = machine.node.clone().unwrap();
    machine.run(|io| async move { what(&node, io).await })
}

/// Bytes that become smaller the fewer different ones there are.
fn content(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let most = *random.choice(&[1u8, 4, 30, 255]).unwrap();
    (0..len).map(|_| random.u8(0..=most)).collect()
}

/// One image's life; how many compressed clusters it ends with.
fn live(seed: u64, options: &str, cluster: usize) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let clusters = random.usize(3..if cluster > 1 << 17 { 6 } else { 60 });
    let size = clusters * cluster + 512 * random.usize(0..(cluster / 512).min(9));
    qemu_img(&directory, &["create", "-q", "-f", "qcow2", "-o", options, "image", &size.to_string()]);
    let mut machine = Machine::new(seed, &[std::fs::read(directory.path().join("image")).unwrap()], 1);
    machine.open(OPTIONS).unwrap();
    let mut model = vec![0; size];
    let compress = |node: &Arc<Node>| match node.driver() {
        Driver::Qcow2(image) => image.begin_compressing(),
        _ => unreachable!("an image"),
    };
    compress(machine.node.as_ref().unwrap());
    for _ in 0..if cluster > 1 << 17 { 12 } else { 90 } {
        let first = random.usize(0..size.div_ceil(cluster)) * cluster;
        let end = size.min(first + cluster * random.usize(1..4));
        match random.u8(0..10) {
            0..=5 => {
                let bytes = content(&mut random, end - first);
                model[first..end].copy_from_slice(&bytes);
                run(&mut machine, Kind::Write, first, &bytes);
            }
            6 => {
                let at = first + 512 * random.usize(0..(end - first) / 512);
                let bytes = content(&mut random, 512);
                model[at..at + 512].copy_from_slice(&bytes);
                run(&mut machine, Kind::Write, at, &bytes);
            }
            7 => {
                model[first..end].fill(0);
                run(&mut machine, Kind::Zero { unmap: true }, first, &vec![0; end - first]);
            }
            8 => {
                let found = run(&mut machine, Kind::Read, first, &vec![0; end - first]);
                assert!(found == model[first..end], "{options}, seed {seed}: read of {first}..{end}");
            }
            _ => drop(run(&mut machine, Kind::Flush, 0, &[])),
        }
    }
    let found = run(&mut machine, Kind::Read, 0, &vec![0; size]);
    assert!(found == model, "{options}, seed {seed}: the whole disk");
    with_image(&mut machine, async |node, io| match node.driver() {
        Driver::Qcow2(image) => image.end_compressing(&io).await,
        _ => unreachable!("an image"),
    });
    machine.close().unwrap();
    let files = machine.contents();
    assert_eq!(check(&files), (0, 0), "{options}, seed {seed}: leaks and corruptions");
    std::fs::write(directory.path().join("image"), &files[0]).unwrap();
    qemu_img(&directory, &["convert", "-f", "qcow2", "-O", "raw", "image", "raw"]);
    assert!(std::fs::read(directory.path().join("raw")).unwrap() == model, "{options}, seed {seed}: as QEMU reads it");
    let report = qemu_img(&directory, &["check", "--output", "json", "image"]);
    let compressed = report.split("\"compressed-clusters\": ").nth(1);
    compressed.map_or(0, |text| text.split(',').next().unwrap().trim().parse().unwrap())
}

#[test]
fn whole_clusters_are_written_compressed_and_read_as_what_they_were() {
    let kinds = [
        ("cluster_size=512,refcount_bits=1", 512),
        ("cluster_size=4k,refcount_bits=2,compression_type=zstd", 4096),
        ("cluster_size=4k,compat=0.10", 4096),
        ("cluster_size=64k,refcount_bits=64", 65536),
        ("cluster_size=64k,compression_type=zstd", 65536),
        ("cluster_size=2M", 2 << 20),
    ];
    for (kind, (options, cluster)) in kinds.into_iter().enumerate() {
        let seeds = if cluster > 1 << 17 { 1 } else { 6 };
        let compressed: u64 = (0..seeds).map(|seed| live(seed + 100 * kind as u64, options, cluster)).sum();
        assert!(compressed > 0, "{options}: nothing was compressed");
    }
}

#[test]
fn compressed_clusters_share_clusters_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    qemu_img(&directory, &["create", "-q", "-f", "qcow2", "image", "16M"]);
    let mut machine = Machine::new(1, &[std::fs::read(directory.path().join("image")).unwrap()], 1);
    machine.open(OPTIONS).unwrap();
    with_image(&mut machine, async |node, _| match node.driver() {
        Driver::Qcow2(image) => image.begin_compressing(),
        _ => unreachable!("an image"),
    });
    let mut random = fastrand::Rng::with_seed(1);
    // Two thirds of what they were.
    let bytes: Vec<u8> = (0..16 << 20).map(|_| random.u8(0..32)).collect();
    run(&mut machine, Kind::Write, 0, &bytes);
    with_image(&mut machine, async |node, io| match node.driver() {
        Driver::Qcow2(image) => image.end_compressing(&io).await,
        _ => unreachable!("an image"),
    });
    machine.close().unwrap();
    let used = machine.contents()[0].iter().rposition(|byte| *byte != 0).unwrap();
    assert!(used < byte_count(12 << 20), "{used} bytes of the file are used");
    assert_eq!(check(&machine.contents()), (0, 0));
}
