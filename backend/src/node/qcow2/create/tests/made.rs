//! What is made here is what QEMU makes.

use crate::node::qcow2::create::{CreateOptions, Layout, Preallocation, layout};
use crate::node::qcow2::header::{Compression, Header};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// An image in `dir`.
fn make(dir: &Path, name: &str, layout: &Layout) {
    let file = std::fs::File::create(dir.join(name)).unwrap();
    layout.writes().for_each(|(offset, bytes)| file.write_all_at(&bytes, offset).unwrap());
    assert!(file.metadata().unwrap().len() <= layout.length);
    file.set_len(layout.length).unwrap();
    if layout.data_length > 0 {
        let data = std::fs::File::create(dir.join("data.raw")).unwrap();
        data.set_len(layout.data_length).unwrap();
    }
}

fn qemu_img(dir: &Path, arguments: &str) -> String {
    let output = Command::new("qemu-img").args(arguments.split_whitespace()).current_dir(dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments}: {}{}", text(&output.stderr), text(&output.stdout));
    text(&output.stdout)
}

/// What `qemu-img info` says of the image itself: its node's lines, not those of the file below.
fn info(dir: &Path, name: &str) -> Vec<String> {
    let text = qemu_img(dir, &format!("info --output json {name}")).replace(name, "IMAGE");
    let lines = text.lines().skip_while(|line| *line != "    ],").map(str::to_owned);
    lines.filter(|line| !line.contains("actual-size")).collect()
}

fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("base.raw"), vec![0; 1 << 20]).unwrap();
    dir
}

/// The options as `qemu-img create` takes them.
fn typed(options: &CreateOptions) -> String {
    let on = |set: bool| if set { "on" } else { "off" };
    let mut list = vec![
        format!("cluster_size={},compat=v{}", options.cluster_size, options.version),
        format!("refcount_bits={},lazy_refcounts={}", options.refcount_bits, on(options.lazy_refcounts)),
    ];
    match options.compression {
        Compression::Zlib => list.push("compression_type=zlib".into()),
        Compression::Zstd => list.push("compression_type=zstd".into()),
    }
    if options.extended_l2 {
        list.push("extended_l2=on".into());
    }
    if options.preallocation == Preallocation::Metadata {
        list.push("preallocation=metadata".into());
    }
    if let Some(name) = &options.data_file {
        list.push(format!("data_file={name},data_file_raw={}", on(options.data_file_raw)));
    }
    let below = options.backing.as_ref().map_or(String::new(), |name| format!(" -b {name} -F raw"));
    format!("create -q -f qcow2 -o {}{below} theirs.qcow2 {}", list.join(","), options.size)
}

/// QEMU finds ours without fault and like the one it makes from the same options.
fn same(options: &CreateOptions) -> (Vec<u8>, Vec<u8>) {
    let dir = directory();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    qemu_img(dir.path(), &typed(options));
    let theirs = (info(dir.path(), "theirs.qcow2"), read("theirs.qcow2"));
    make(dir.path(), "ours.qcow2", &layout(options).unwrap());
    let checked = qemu_img(dir.path(), "check ours.qcow2");
    assert!(checked.contains("No errors were found on the image."), "{options:?}: {checked}");
    assert_eq!(info(dir.path(), "ours.qcow2"), theirs.0, "{options:?}");
    (read("ours.qcow2"), theirs.1)
}

/// Every combination of the options that go together.
fn combinations() -> Vec<CreateOptions> {
    let mut all = Vec::new();
    for version in [2, 3] {
        for cluster_size in [512, 4096, 65536, 2 << 20] {
            for refcount_bits in [1, 2, 4, 8, 16, 32, 64] {
                for kind in 0..8 {
                    let named = |wanted: &[u32], name: &str| wanted.contains(&kind).then(|| name.to_owned());
                    all.push(CreateOptions {
                        size: 3 << 20,
                        cluster_size,
                        version,
                        refcount_bits,
                        lazy_refcounts: version == 3 && refcount_bits == 8,
                        backing: named(&[1, 7], "base.raw"),
                        backing_format: named(&[1, 7], "raw"),
                        data_file: named(&[2, 3, 4], "data.raw"),
                        data_file_raw: kind == 3,
                        compression: if version == 3 && kind == 0 { Compression::Zstd } else { Compression::Zlib },
                        extended_l2: kind > 5,
                        preallocation: if [4, 5, 7].contains(&kind) {
                            Preallocation::Metadata
                        } else {
                            Preallocation::Off
                        },
                    });
                }
            }
        }
    }
    all.retain(|options| !options.extended_l2 || (options.version == 3 && options.cluster_size > 1 << 14));
    all.retain(|options| options.version == 3 || (options.refcount_bits == 16 && options.data_file.is_none()));
    all
}

#[test]
fn images_of_every_combination_of_options_are_those_of_qemu() {
    combinations().iter().for_each(|options| {
        same(options);
    });
}

#[test]
fn an_image_is_byte_for_byte_that_of_qemu() {
    let plain = CreateOptions { size: 1 << 30, ..CreateOptions::default() };
    let images = [
        plain.clone(),
        CreateOptions { size: 0, ..plain.clone() },
        CreateOptions { version: 2, ..plain.clone() },
        CreateOptions { extended_l2: true, ..plain.clone() },
        CreateOptions { cluster_size: 4096, size: 1 << 20, refcount_bits: 1, ..plain.clone() },
        CreateOptions { backing: Some("base.raw".into()), backing_format: Some("raw".into()), ..plain.clone() },
        CreateOptions { compression: Compression::Zstd, lazy_refcounts: true, ..plain.clone() },
        CreateOptions { data_file: Some("data.raw".into()), data_file_raw: true, ..plain },
    ];
    for options in images {
        let (ours, theirs) = same(&options);
        // QEMU fills up the last cluster where there are tables behind it.
        let len = ours.len().min(theirs.len());
        assert!(
            ours[..len] == theirs[..len] && ours[len..].iter().chain(&theirs[len..]).all(|b| *b == 0),
            "{options:?}"
        );
    }
}

#[test]
fn the_largest_images_are_made() {
    let largest = [(512, 128 << 30), (65536, 2 << 50), (2 << 20, 2 << 60)];
    for (cluster_size, size) in largest {
        let dir = directory();
        make(
            dir.path(),
            "ours.qcow2",
            &layout(&CreateOptions { size, cluster_size, ..CreateOptions::default() }).unwrap(),
        );
        assert!(info(dir.path(), "ours.qcow2").contains(&format!("    \"virtual-size\": {size},")));
    }
}

#[test]
fn an_image_whose_counts_take_many_blocks_is_whole() {
    let sizes = [(512, 64, 40 << 20), (512, 1, 40 << 20), (4096, 16, 100 << 20), (512, 64, 64 * 512)];
    for (cluster_size, refcount_bits, size) in sizes {
        let preallocation = Preallocation::Metadata;
        same(&CreateOptions { cluster_size, refcount_bits, size, preallocation, ..CreateOptions::default() });
    }
    // The tables alone take many blocks.
    same(&CreateOptions { cluster_size: 512, refcount_bits: 64, size: 8 << 30, ..CreateOptions::default() });
}

#[test]
fn the_number_of_blocks_is_right_around_each_of_their_ends() {
    let dir = directory();
    for clusters in 50..140 {
        let size = clusters * 512;
        let preallocation = Preallocation::Metadata;
        let options = CreateOptions { cluster_size: 512, refcount_bits: 64, size, preallocation, ..Default::default() };
        make(dir.path(), "ours.qcow2", &layout(&options).unwrap());
        qemu_img(dir.path(), "check ours.qcow2");
    }
}

#[test]
fn what_is_made_is_parsed_here_and_becomes_an_image_last() {
    let layout = layout(&CreateOptions { size: 1 << 30, ..CreateOptions::default() }).unwrap();
    let (offset, cluster) = layout.writes().last().unwrap();
    assert_eq!((offset, Header::parse(&cluster, layout.length)), (0, Ok(layout.header.clone())));
    let others = layout.writes().count() - 1;
    assert!(layout.writes().take(others).all(|(offset, _)| offset >= 65536));
}

#[test]
fn a_guest_can_use_what_was_preallocated() {
    let dir = directory();
    let preallocation = Preallocation::Metadata;
    let options = CreateOptions { size: 8 << 20, cluster_size: 4096, preallocation, ..CreateOptions::default() };
    make(dir.path(), "ours.qcow2", &layout(&options).unwrap());
    let script = ["-f", "qcow2", "-c", "write -P 7 0 8M", "-c", "read -P 7 0 8M", "ours.qcow2"];
    let output = Command::new("qemu-io").args(script).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    qemu_img(dir.path(), "check ours.qcow2");
    // Nothing had to be added.
    assert_eq!(std::fs::metadata(dir.path().join("ours.qcow2")).unwrap().len(), layout(&options).unwrap().length);
}
