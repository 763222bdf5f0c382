//! Snapshots of images that nobody uses, beside qemu-img: what either takes, applies and deletes is the other's, too.

use super::rig::Rig;
use crate::graph::Graph;
use crate::graph::snapshots::{SnapshotChange, SnapshotChangeError};
use crate::node::NodeOptions;
use crate::node::options::{Backing, ChildRef, DriverOptions, FileOptions, Locking, Qcow2Options};
use std::process::Command;

fn options(rig: &Rig, name: &str) -> NodeOptions {
    let file = FileOptions { filename: rig.path(name), locking: Locking::Auto, device: false };
    let file = ChildRef::Inline(Box::new(NodeOptions::new(DriverOptions::File(file))));
    let image = Qcow2Options { backing: Backing::None, ..Qcow2Options::new(file) };
    NodeOptions { node_name: Some("image".into()), ..NodeOptions::new(DriverOptions::Qcow2(Box::new(image))) }
}

fn change(rig: &Rig, name: &str, change: SnapshotChange) -> Result<(), SnapshotChangeError> {
    Graph::new().change_snapshots(&options(rig, name), &change)
}

fn write(rig: &Rig, random: &mut fastrand::Rng, clusters: usize, cluster: usize) {
    let mut arguments = vec!["-f".to_owned(), "qcow2".to_owned()];
    for _ in 0..random.usize(1..8) {
        let (first, pattern) = (random.usize(0..clusters), random.u8(1..));
        let (offset, len) = (first * cluster, random.usize(1..=(clusters - first).min(9)) * cluster);
        let verb = random.choice(["write", "write -z", "discard"]).unwrap();
        let pattern = if verb == "write" { format!("-P {pattern}") } else { String::new() };
        arguments.extend(["-c".to_owned(), format!("{verb} {pattern} {offset} {len}")]);
    }
    arguments.push("image".to_owned());
    rig.tool("qemu-io", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn the_disk_is_what_it_was_at_any_snapshot_whoever_took_it() {
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..6 {
        let rig = Rig::new();
        let (bits, version) = (random.choice([9, 12, 16]).unwrap(), random.choice(["0.10", "1.1"]).unwrap());
        let (cluster, clusters) = (1 << bits, 150);
        let made = format!("cluster_size={cluster},compat={version}");
        let size = (cluster * clusters).to_string();
        rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &made, "image", &size]);
        let mut taken: Vec<(String, Vec<u8>)> = Vec::new();
        for step in 0..8 {
            write(&rig, &mut random, clusters, cluster);
            let name = format!("s{step}");
            taken.push((name.clone(), rig.content_by_qemu("image")));
            match random.bool() {
                true => change(&rig, "image", SnapshotChange::Create(name)).unwrap(),
                false => rig.tool("qemu-img", &["snapshot", "-c", &name, "image"]),
            }
            rig.tool("qemu-img", &["check", "image"]);
            if random.bool() {
                write(&rig, &mut random, clusters, cluster);
                let (name, content) = random.choice(&taken).unwrap();
                match random.u8(0..3) {
                    0 => rig.tool("qemu-img", &["snapshot", "-a", name, "image"]),
                    _ => change(&rig, "image", SnapshotChange::Apply(name.clone())).unwrap(),
                }
                rig.tool("qemu-img", &["check", "image"]);
                assert!(rig.content_by_qemu("image") == *content, "round {round}: {made}, {name}");
            }
            if random.u8(0..3) == 0 {
                let before = rig.content_by_qemu("image");
                let (name, _) = taken.swap_remove(random.usize(0..taken.len()));
                match random.bool() {
                    true => change(&rig, "image", SnapshotChange::Delete(name)).unwrap(),
                    false => rig.tool("qemu-img", &["snapshot", "-d", &name, "image"]),
                }
                rig.tool("qemu-img", &["check", "image"]);
                assert!(rig.content_by_qemu("image") == before, "round {round}: the disk has changed");
            }
        }
        for (name, content) in &taken {
            change(&rig, "image", SnapshotChange::Apply(name.clone())).unwrap();
            assert!(rig.content_by_qemu("image") == *content, "round {round}: {made}, {name} in the end");
        }
        for (name, _) in taken {
            change(&rig, "image", SnapshotChange::Delete(name)).unwrap();
        }
        rig.tool("qemu-img", &["check", "image"]);
    }
}

#[test]
fn what_cannot_be_done_is_refused_in_the_words_of_qemu() {
    let rig = Rig::new();
    rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "image", "1M"]);
    rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "refcount_bits=1", "narrow", "1M"]);
    rig.tool("qemu-io", &["-f", "qcow2", "-c", "write 0 64k", "narrow"]);
    rig.tool("qemu-img", &["snapshot", "-c", "s", "image"]);
    rig.tool("qemu-img", &["bitmap", "--add", "image", "b"]);
    let same = |image: &str, what: SnapshotChange, option: &str, name: &str| {
        let before = std::fs::read(rig.path(image)).unwrap();
        let ours = change(&rig, image, what).unwrap_err().to_string();
        std::fs::write(rig.path(image), before).unwrap();
        let qemu = Command::new("qemu-img").args(["snapshot", option, name]).arg(rig.path(image)).output().unwrap();
        assert_eq!(format!("qemu-img: {ours}\n"), String::from_utf8(qemu.stderr).unwrap());
    };
    same("image", SnapshotChange::Apply("none".into()), "-a", "none");
    same("image", SnapshotChange::Apply("s".into()), "-a", "s");
    same("image", SnapshotChange::Delete("none".into()), "-d", "none");
    same("narrow", SnapshotChange::Create("s".into()), "-c", "s");
}

#[test]
fn an_image_with_an_external_data_file_has_no_snapshots() {
    for raw in ["off", "on"] {
        let rig = Rig::new();
        let made = format!("data_file={},data_file_raw={raw}", rig.path("data").display());
        rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &made, "image", "1M"]);
        rig.tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 256k", "image"]);
        let cases = [
            (SnapshotChange::Create("s".into()), "-c"),
            (SnapshotChange::Apply("s".into()), "-a"),
            (SnapshotChange::Delete("s".into()), "-d"),
        ];
        for (what, option) in cases {
            let before = std::fs::read(rig.path("image")).unwrap();
            let ours = change(&rig, "image", what).unwrap_err().to_string();
            let qemu =
                Command::new("qemu-img").args(["snapshot", option, "s"]).arg(rig.path("image")).output().unwrap();
            assert_eq!(format!("qemu-img: {ours}\n"), String::from_utf8(qemu.stderr).unwrap(), "{raw}");
            assert!(std::fs::read(rig.path("image")).unwrap() == before, "{raw}: {option}");
        }
    }
}
