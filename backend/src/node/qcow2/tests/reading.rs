//! Images that QEMU has written read here as QEMU reads them; broken ones fail where they are broken and nowhere else.

use super::rig::Rig;
use crate::error::IoError;
use crate::node::Node;
use std::sync::Arc;

const DISK: usize = 3 << 20;

/// How an image is made.
struct Make {
    options: &'static str,
    cluster: usize,
}

const MAKES: [Make; 7] = [
    Make { options: "compat=1.1,cluster_size=512,refcount_bits=1", cluster: 512 },
    Make { options: "compat=0.10,cluster_size=4k", cluster: 4096 },
    Make { options: "compat=1.1,cluster_size=4k,compression_type=zstd", cluster: 4096 },
    Make { options: "compat=1.1,cluster_size=64k", cluster: 65536 },
    Make { options: "compat=1.1,cluster_size=64k,compression_type=zstd,refcount_bits=64", cluster: 65536 },
    Make { options: "compat=1.1,cluster_size=2M", cluster: 2 << 20 },
    Make { options: "compat=1.1,cluster_size=1M,preallocation=metadata", cluster: 1 << 20 },
];

/// Commands for qemu-io: compressed clusters, then writes, zeroes and discards all over the disk.
fn commands(random: &mut fastrand::Rng, make: &Make) -> Vec<String> {
    let (cluster, sectors) = (make.cluster, DISK / 512);
    // QEMU compresses only what is not there yet.
    let packed = if make.options.contains("preallocation") { 0 } else { 12 };
    let mut clusters: Vec<usize> = (0..DISK / cluster).collect();
    random.shuffle(&mut clusters);
    let compress =
        |(number, index): (usize, &usize)| format!("write -c -P {} {} {cluster}", number + 1, index * cluster);
    let mut commands: Vec<String> = clusters.iter().take(packed).enumerate().map(compress).collect();
    for byte in 20..90 {
        let at = random.usize(..sectors);
        let len = random.usize(1..=(sectors - at).min(4 * cluster / 512 + 8));
        let kind = ["write -z", "write -z -u", "discard"].get(random.usize(..6)).copied();
        let kind = kind.map_or(format!("write -P {byte}"), str::to_owned);
        commands.push(format!("{kind} {} {}", at * 512, len * 512));
    }
    commands.push("flush".into());
    commands
}

fn write_by_qemu(rig: &Rig, image: &str, random: &mut fastrand::Rng, make: &Make) {
    let commands = commands(random, make);
    let mut arguments = vec!["-f", "qcow2", "-d", "unmap"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(image);
    rig.tool("qemu-io", &arguments);
}

/// Reads all of a disk, then pieces of it, each on the fast path and by a task.
fn compare(rig: &mut Rig, node: &Arc<Node>, expected: &[u8], random: &mut fastrand::Rng, what: &str) {
    assert_eq!(node.length(), expected.len() as u64, "{what}");
    assert!(rig.read_by_task(node, 0, expected.len()).unwrap() == expected, "{what}: all of it");
    for _ in 0..150 {
        let offset = random.usize(..expected.len() / 512) * 512;
        let len = (random.usize(1..=300) * 512).min(expected.len() - offset);
        let part = &expected[offset..offset + len];
        assert!(rig.read(node, offset as u64, len).unwrap() == part, "{what}: {len} at {offset}");
        assert!(rig.read_by_task(node, offset as u64, len).unwrap() == part, "{what}: {len} at {offset} by a task");
    }
}

#[test]
fn what_qemu_writes_reads_as_qemu_reads_it() {
    for (seed, make) in MAKES.iter().enumerate() {
        let (mut rig, mut random) = (Rig::new(), fastrand::Rng::with_seed(seed as u64));
        rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", make.options, "image", &DISK.to_string()]);
        write_by_qemu(&rig, "image", &mut random, make);
        let expected = rig.content_by_qemu("image");
        let node = rig.image("image", None, None);
        compare(&mut rig, &node, &expected, &mut random, make.options);
    }
}

#[test]
fn a_chain_of_images_reads_as_one_disk_and_ends_of_shorter_ones_read_as_zeroes() {
    for (seed, make) in MAKES[..6].iter().enumerate() {
        let (mut rig, mut random) = (Rig::new(), fastrand::Rng::with_seed(seed as u64));
        std::fs::write(rig.path("raw"), (0..DISK / 3 + 512).map(|_| random.u8(..)).collect::<Vec<u8>>()).unwrap();
        for (image, below, format, size) in [("middle", "raw", "raw", DISK - 1024), ("top", "middle", "qcow2", DISK)] {
            let arguments = ["create", "-q", "-f", "qcow2", "-o", make.options, "-b", below, "-F", format, image];
            rig.tool("qemu-img", &[&arguments[..], &[&DISK.to_string()]].concat());
            write_by_qemu(&rig, image, &mut random, make);
            if size < DISK {
                rig.tool("qemu-img", &["resize", "-q", "--shrink", "-f", "qcow2", image, &size.to_string()]);
            }
        }
        let expected = rig.content_by_qemu("top");
        let raw = rig.file("raw");
        let middle = rig.image("middle", None, Some(raw));
        let top = rig.image("top", None, Some(middle));
        compare(&mut rig, &top, &expected, &mut random, make.options);
    }
}

#[test]
fn whole_images_that_qemu_has_compressed_read_as_what_they_were_made_of() {
    let (mut rig, mut random) = (Rig::new(), fastrand::Rng::with_seed(5));
    // Text that packs well, noise that does not, holes.
    let mut content = vec![0; DISK + 36 * 512];
    for block in content.chunks_mut(10_000) {
        match random.u8(..3) {
            0 => block.iter_mut().for_each(|byte| *byte = b'a' + random.u8(..4)),
            1 => block.iter_mut().for_each(|byte| *byte = random.u8(..)),
            _ => {}
        }
    }
    std::fs::write(rig.path("raw"), &content).unwrap();
    for options in
        ["compression_type=zlib", "compression_type=zstd", "compression_type=zstd,cluster_size=2M", "cluster_size=512"]
    {
        let image = format!("image-{options}");
        rig.tool("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "raw", &image]);
        let node = rig.image(&image, None, None);
        compare(&mut rig, &node, &content, &mut random, options);
    }
}

#[test]
fn an_external_data_file_is_read() {
    for raw in ["off", "on"] {
        let (mut rig, mut random) = (Rig::new(), fastrand::Rng::with_seed(6));
        let options = format!("data_file=data,data_file_raw={raw}");
        rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, "image", &DISK.to_string()]);
        let commands =
            ["write -P 1 0 65536", "write -P 2 1000448 131072", "write -z 65536 65536", "discard 1048576 65536"];
        let commands: Vec<&str> = commands.iter().flat_map(|command| ["-c", command]).collect();
        rig.tool("qemu-io", &[&["-f", "qcow2", "-d", "unmap"], &commands[..], &["image"]].concat());
        let expected = rig.content_by_qemu("image");
        let data = rig.file("data");
        let node = rig.image("image", Some(data), None);
        compare(&mut rig, &node, &expected, &mut random, &options);
    }
}

/// An image of 64 KiB clusters, its first four with data and the fifth compressed, with 64 bits of it changed.
fn broken(rig: &mut Rig, offset_of: impl Fn(&[u8]) -> (usize, u64)) -> Arc<Node> {
    rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "image", &DISK.to_string()]);
    let write = ["-f", "qcow2", "-c", "write -P 7 0 256k", "-c", "write -c -P 8 256k 64k", "image"];
    rig.tool("qemu-io", &write);
    let mut bytes = std::fs::read(rig.path("image")).unwrap();
    let (offset, value) = offset_of(&bytes);
    bytes[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
    std::fs::write(rig.path("image"), bytes).unwrap();
    rig.image("image", None, None)
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_be_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Offsets of the L1 and of the first L2 table.
fn tables(bytes: &[u8]) -> (usize, usize) {
    let l1 = usize::try_from(word(bytes, 40)).unwrap();
    (l1, usize::try_from(word(bytes, l1) & 0x00ff_ffff_ffff_fe00).unwrap())
}

#[test]
fn an_entry_that_leads_where_it_must_not_fails_alone() {
    let copied = 1 << 63;
    let compressed = 1 << 62;
    let cases: [(&str, u64); 8] = [
        ("past the end of the file", copied | 1 << 40),
        ("the header", compressed | 3),
        ("the refcount table", copied | 0x1_0000),
        ("the refcount block", copied | 0x2_0000),
        ("the L1 table", copied | 0x3_0000),
        ("the L2 table", copied | 0x4_0000),
        ("no cluster", copied | 0x5_0200),
        ("reserved bits", copied | 0x5_0000 | 2),
    ];
    for (what, value) in cases {
        let mut rig = Rig::new();
        let node = broken(&mut rig, |bytes| {
            let (l1, l2) = tables(bytes);
            assert_eq!((l1, l2), (0x3_0000, 0x4_0000), "where QEMU puts them");
            (l2 + 8, value)
        });
        for read in [Rig::read, Rig::read_by_task] {
            assert_eq!(read(&mut rig, &node, 0x1_0000, 0x1_0000), Err(IoError::Io), "{what}");
            assert_eq!(read(&mut rig, &node, 0x0_fe00, 1024), Err(IoError::Io), "{what}: part of it");
            assert_eq!(read(&mut rig, &node, 0, 0x1_0000), Ok(vec![7; 0x1_0000]), "{what}: before");
            assert_eq!(read(&mut rig, &node, 0x2_0000, 0x2_0000), Ok(vec![7; 0x2_0000]), "{what}: after");
        }
    }
}

#[test]
fn a_table_that_is_not_where_tables_are_fails_and_not_the_rest() {
    for value in [1 << 63 | 1 << 40, 1 << 63 | 0x1_0000, 1 << 63 | 0x3_0000, 1 << 63 | 0x4_0200, 1 << 63 | 0x4_0001] {
        let mut rig = Rig::new();
        let node = broken(&mut rig, |bytes| (tables(bytes).0, value));
        assert_eq!(rig.read(&node, 0, 512), Err(IoError::Io), "{value:#x}");
        assert_eq!(rig.read_by_task(&node, DISK as u64 - 512, 512), Err(IoError::Io), "{value:#x}: the same table");
    }
}

#[test]
fn what_does_not_inflate_fails_alone() {
    let mut rig = Rig::new();
    let node = broken(&mut rig, |bytes| {
        let entry = word(bytes, tables(bytes).1 + 4 * 8);
        assert_eq!(entry >> 62, 1, "compressed");
        (usize::try_from(entry & ((1 << 54) - 1)).unwrap(), u64::MAX)
    });
    assert_eq!(rig.read(&node, 0x4_0000, 512), Err(IoError::Io));
    assert_eq!(rig.read(&node, 0x3_fe00, 1024), Err(IoError::Io));
    assert_eq!(rig.read(&node, 0, 0x4_0000), Ok(vec![7; 0x4_0000]));
    assert_eq!(rig.read(&node, 0x5_0000, 0x1_0000), Ok(vec![0; 0x1_0000]));
}
