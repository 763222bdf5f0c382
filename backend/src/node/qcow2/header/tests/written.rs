//! What we write is what QEMU wrote, and nothing that is not understood gets lost.

use super::super::{Backing, Header, HeaderError};
use super::images::Image;

/// Cluster 0 as it is after it was read and written.
fn written(image: &Image) -> Vec<u8> {
    image.parse().unwrap().to_bytes().unwrap()
}

#[test]
fn what_is_written_is_byte_for_byte_what_qemu_wrote() {
    let options = [
        "",
        "-o compat=v2",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o refcount_bits=1",
        "-o lazy_refcounts=on,compression_type=zstd",
        "-b base.raw -F raw",
        "-b base.raw -F raw -o compat=v2",
        "-o data_file=data.raw",
        "-o data_file=data.raw,data_file_raw=on,refcount_bits=8",
    ];
    for options in options {
        let image = Image::create(options, "64M");
        let bytes = written(&image);
        assert!(bytes == image.bytes()[..bytes.len()], "{options}");
    }
}

#[test]
fn an_image_keeps_its_bitmaps_and_snapshots() {
    let image = Image::create("-b base.raw -F raw", "64M");
    image.tool("qemu-img", ["bitmap", "--add", "disk.qcow2", "one"]).unwrap();
    image.tool("qemu-img", ["snapshot", "-c", "s", "disk.qcow2"]).unwrap();
    let before = image.info().unwrap();
    image.patch(0, &written(&image));
    assert_eq!(image.info().unwrap(), before);
    image.check().unwrap();
}

#[test]
fn what_is_not_understood_is_kept() {
    let header = Image::create("", "64M").parse().unwrap();
    let header = Header {
        compatible: 1 << 40,
        autoclear: 1 << 50,
        header_length: 128,
        unknown_fields: vec![7; 16],
        extensions: vec![(0x1234_5678, vec![1, 2, 3]), (0x9abc_def0, Vec::new()), (0x1234_5678, vec![4; 8])],
        ..header
    };
    let bytes = header.to_bytes().unwrap();
    assert_eq!(Header::parse(&bytes, 1 << 20), Ok(header));
}

#[test]
fn a_shorter_header_of_version_3_stays_as_short() {
    let image = Image::create("", "64M");
    let header = Header { header_length: 104, ..image.parse().unwrap() };
    image.patch(0, &header.to_bytes().unwrap());
    assert_eq!(image.parse(), Ok(header));
    image.check().unwrap();
}

#[test]
fn another_backing_file_is_what_qemu_sees() {
    let image = Image::create("", "64M");
    let backing = Backing { file: "base.raw".into(), format: Some("raw".into()) };
    let header = Header { backing: Some(backing), ..image.parse().unwrap() };
    image.patch(0, &header.to_bytes().unwrap());
    let info = image.info().unwrap();
    assert!(
        info.contains("\"backing-filename\": \"base.raw\"") && info.contains("\"backing-filename-format\": \"raw\"")
    );
}

#[test]
fn names_that_could_not_be_read_again_are_not_written() {
    let header = Image::create("", "64M").parse().unwrap();
    let with = |file: String, format: Option<String>| {
        let backing = Some(Backing { file, format });
        Header { backing, ..header.clone() }.to_bytes()
    };
    assert!(with("x".repeat(1023), None).is_ok());
    assert_eq!(with("x".repeat(1024), None), Err(HeaderError::BackingName));
    assert_eq!(with("x".into(), Some("f".repeat(16))), Err(HeaderError::FormatName(16)));
    let small = Image::create("-o cluster_size=512", "64M").parse().unwrap();
    let backing = Some(Backing { file: "x".repeat(400), format: None });
    assert_eq!(Header { backing, ..small }.to_bytes(), Err(HeaderError::DoesNotFit(512)));
}
