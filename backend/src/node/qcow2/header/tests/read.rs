//! What an image of QEMU says is what we read in it.

use super::super::{Backing, Compression, Header, LENGTH_V3, bits};
use super::images::{Image, parse};

#[test]
fn an_image_of_qemu_is_understood() {
    let header = Image::create("", "1G").parse().unwrap();
    assert_eq!((header.version, header.size, header.cluster_bits, header.refcount_order), (3, 1 << 30, 16, 4));
    assert_eq!((header.l1_entries, header.reftable_clusters, header.snapshots), (2, 1, 0));
    assert_eq!((header.incompatible, header.compatible, header.autoclear), (0, 0, 0));
    assert_eq!((header.compression, header.header_length), (Compression::Zlib, LENGTH_V3));
    assert_eq!((&header.backing, &header.data_file, header.bitmaps), (&None, &None, None));
}

#[test]
fn every_option_of_an_image_is_read() {
    let header = |options: &str| Image::create(options, "64M").parse().unwrap();
    assert_eq!(header("-o compat=v2").version, 2);
    assert_eq!(header("-o compat=v2").header_length, 72);
    assert_eq!(header("-o cluster_size=512").cluster_bits, 9);
    assert_eq!(header("-o cluster_size=2M").cluster_bits, 21);
    assert_eq!(header("-o refcount_bits=1").refcount_order, 0);
    assert_eq!(header("-o refcount_bits=64").refcount_order, 6);
    assert_eq!(header("-o lazy_refcounts=on").compatible, bits::COMPATIBLE_LAZY_REFCOUNTS);
    assert_eq!(header("-o compression_type=zstd").compression, Compression::Zstd);
    let below = Backing { file: "base.raw".into(), format: Some("raw".into()) };
    assert_eq!(header("-b base.raw -F raw").backing, Some(below));
    let external = header("-o data_file=data.raw,data_file_raw=on");
    assert_eq!(external.data_file.as_deref(), Some("data.raw"));
    assert_eq!(external.incompatible, bits::INCOMPATIBLE_DATA_FILE);
    assert_eq!(external.autoclear, bits::AUTOCLEAR_RAW_DATA);
    assert!(external.geometry().external_data);
}

#[test]
fn bitmaps_are_found_until_somebody_else_has_written() {
    let image = Image::create("", "64M");
    image.tool("qemu-img", ["bitmap", "--add", "disk.qcow2", "one"]).unwrap();
    image.tool("qemu-img", ["bitmap", "--add", "disk.qcow2", "another"]).unwrap();
    let header = image.parse().unwrap();
    let bitmaps = header.bitmaps.unwrap();
    // 24 + 3, 24 + 7, each rounded up to eight.
    assert_eq!((bitmaps.count, bitmaps.size, header.stale_bitmaps), (2, 64, false));
    image.patch(88, &[0; 8]);
    let header = image.parse().unwrap();
    assert_eq!((header.bitmaps, header.stale_bitmaps), (None, true));
}

#[test]
fn a_snapshot_is_seen() {
    let image = Image::create("", "64M");
    image.tool("qemu-img", ["snapshot", "-c", "s", "disk.qcow2"]).unwrap();
    let header = image.parse().unwrap();
    assert_eq!(header.snapshots, 1);
    assert_ne!(header.snapshots_offset, 0);
}

#[test]
fn a_size_that_is_not_whole_sectors_is_rounded_down_as_qemu_does() {
    let image = Image::create("", "64M").patched(24, &1025_u64.to_be_bytes());
    assert_eq!(image.parse().unwrap().size, 1024);
    assert!(image.info().unwrap().contains("\"virtual-size\": 1024,"));
}

#[test]
fn the_first_bytes_say_how_many_are_needed() {
    let content = Image::create("-o cluster_size=2M", "64M").bytes();
    assert_eq!(Header::cluster_size(&content[..super::super::PREFIX]), Ok(2 << 20));
    let short = Header::parse(&content[..512], content.len() as u64);
    assert_eq!(short.unwrap_err().to_string(), "The first 2097152 bytes are needed");
}

#[test]
fn no_bytes_make_it_panic() {
    let content = Image::create("-b base.raw -F raw -o cluster_size=4096", "64M").bytes();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut content = content.clone();
        for _ in 0..random.usize(1..6) {
            let end = [120, 600][random.usize(..2)];
            let at = random.usize(..end);
            content[at] = [0, 1, 0x7f, 0x80, 0xff, random.u8(..)][random.usize(..6)];
        }
        content.truncate(random.usize(..=content.len()));
        let Ok(header) = parse(&content) else { continue };
        // What was accepted can be written, unless the longer names of today no longer fit, and means the same then.
        let Ok(bytes) = header.to_bytes() else { continue };
        let again = Header::parse(&bytes, content.len() as u64).unwrap();
        assert_eq!(again, Header { stale_bitmaps: false, ..header });
    }
}
