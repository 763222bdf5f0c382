//! Broken headers: refused in QEMU's words where QEMU refuses them, in ours where it does not.

use super::images::Image;

/// A number at an offset of the header.
enum Field {
    U8(usize, u8),
    U32(usize, u32),
    U64(usize, u64),
    Bytes(usize, Vec<u8>),
}
use Field::{Bytes, U8, U32, U64};

impl Field {
    fn apply(&self, image: &Image) {
        match self {
            U8(at, value) => image.patch(*at, &[*value]),
            U32(at, value) => image.patch(*at, &value.to_be_bytes()),
            U64(at, value) => image.patch(*at, &value.to_be_bytes()),
            Bytes(at, bytes) => image.patch(*at, bytes),
        }
    }
}

fn broken(options: &str, fields: &[Field]) -> Image {
    let image = Image::create(options, "64M");
    fields.iter().for_each(|field| field.apply(&image));
    image
}

/// QEMU refuses the image, and we say what QEMU says.
fn same(options: &str, fields: &[Field]) {
    let image = broken(options, fields);
    let theirs = image.info().unwrap_err();
    let theirs = theirs.trim_end().rsplit_once("'disk.qcow2': ").unwrap().1;
    assert_eq!(image.parse().unwrap_err().to_string(), theirs);
}

/// QEMU opens the image, we refuse it with these words.
fn ours(options: &str, fields: &[Field], words: &str) {
    let image = broken(options, fields);
    image.info().unwrap();
    assert_eq!(image.parse().unwrap_err().to_string(), words);
}

/// An extension, padded.
fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    let mut bytes = [kind.to_be_bytes(), len.to_be_bytes()].concat();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Extensions where those of an image begin.
fn extensions(list: &[(u32, &[u8])]) -> Field {
    let area = list.iter().map(|(kind, data)| extension(*kind, data)).chain([vec![0; 8]]);
    Bytes(112, area.flatten().collect())
}

fn bitmaps(count: u32, reserved: u32, size: u64, offset: u64) -> Vec<u8> {
    [&count.to_be_bytes()[..], &reserved.to_be_bytes(), &size.to_be_bytes(), &offset.to_be_bytes()].concat()
}

#[test]
fn fields_out_of_range_are_refused_in_the_words_of_qemu() {
    let headers = [
        U32(0, 0),
        U32(4, 0),
        U32(4, 4),
        U32(20, 8),
        U32(20, 22),
        U32(20, u32::MAX),
        U32(32, 3),
        U32(96, 7),
        U32(100, 0),
        U32(100, 103),
        U32(100, 65544),
        U64(8, 65537),
        U64(8, u64::MAX),
    ];
    headers.into_iter().for_each(|field| same("", &[field]));
    same("-b base.raw -F raw", &[U32(16, 1024)]);
    same("-b base.raw -F raw", &[U64(8, 65535)]);
}

#[test]
fn tables_out_of_range_are_refused_in_the_words_of_qemu() {
    let tables = [
        U32(56, 0),
        U32(56, 129),
        U32(56, 1 << 31),
        U64(48, 512),
        U64(48, 1 << 63),
        U64(48, u64::MAX - 65535),
        U32(60, 65537),
        U64(64, 512),
        U64(64, 1 << 63),
        U32(36, 0),
        U32(36, (4 << 20) + 1),
        U32(36, u32::MAX),
        U64(40, 1),
        U64(40, 1 << 63),
        U64(24, 1 << 30),
        U64(24, 1 << 62),
        U64(24, 1 << 63),
    ];
    tables.into_iter().for_each(|field| same("", &[field]));
}

#[test]
fn compression_that_contradicts_itself_is_refused_in_the_words_of_qemu() {
    same("", &[U8(104, 1)]);
    same("", &[U64(72, 8)]);
    same("", &[U64(72, 8), U8(104, 2)]);
    same("-o compression_type=zstd", &[U32(100, 104)]);
}

#[test]
fn features_that_are_not_known_are_refused_by_the_names_that_the_image_has() {
    let names = |list: &[(u8, u8, &str)]| {
        let entry = |&(kind, bit, name): &(u8, u8, &str)| {
            let mut entry = [&[kind, bit][..], name.as_bytes()].concat();
            entry.resize(48, 0);
            entry
        };
        extensions(&[(0x6803_f857, &list.iter().flat_map(entry).collect::<Vec<_>>())])
    };
    same("", &[U64(72, 0x60)]);
    same("-o compat=v3", &[U64(72, 1 << 63)]);
    same("", &[U64(72, 3 << 40), names(&[(0, 40, "frobnication"), (1, 41, "of another kind")])]);
    same("", &[U64(72, 3 << 40), names(&[(0, 41, &"f".repeat(46)), (0, 255, "no bit"), (0, 41, "again")])]);
}

#[test]
fn extensions_that_are_broken_are_refused_in_the_words_of_qemu() {
    let too_long = [0x1234_5678_u32.to_be_bytes(), (65536 - 112 - 7_u32).to_be_bytes()].concat();
    same("", &[Bytes(112, too_long)]);
    same("", &[U32(100, 113)]);
    same("", &[extensions(&[(0xe279_2aca, b"sixteen letters!")])]);
    same("", &[extensions(&[(0x0537_be77, &[0; 16])])]);
    let broken = [
        [bitmaps(1, 0, 32, 0x4_0000), vec![0]].concat(),
        bitmaps(1, 1, 32, 0x4_0000),
        bitmaps(65536, 0, 32, 0x4_0000),
        bitmaps(0, 0, 32, 0x4_0000),
        bitmaps(1, 0, 32, 0x4_0200),
        bitmaps(1, 0, 64 << 20, 0x4_0000),
        bitmaps(1, 0, 0, 0x4_0000),
    ];
    broken.iter().for_each(|data| same("", &[U64(88, 1), extensions(&[(0x2385_2875, data)])]));
}

#[test]
fn the_longest_extension_that_fits_is_accepted() {
    let longest = [0x1234_5678_u32.to_be_bytes(), (65536 - 112 - 8_u32).to_be_bytes()].concat();
    let image = broken("", &[Bytes(112, longest)]);
    image.info().unwrap();
    image.parse().unwrap();
}

#[test]
fn what_is_not_supported_is_named() {
    same("-o cluster_size=8k", &[U64(72, 16)]);
    ours("", &[U32(32, 1)], "qcow2 encryption (AES) is not supported");
    let image = broken("", &[U32(32, 2)]);
    assert_eq!(image.parse().unwrap_err().to_string(), "qcow2 encryption (LUKS) is not supported");
    ours("", &[U64(88, 2)], "data-file-raw requires a data file");
}

#[test]
fn tables_in_each_other_or_past_the_end_are_refused() {
    ours("", &[U64(48, 0)], "Reference count table overlaps with the header");
    ours("", &[U64(40, 0)], "Active L1 table overlaps with the header");
    ours("", &[U64(40, 0x1_0000)], "Active L1 table overlaps with Reference count table");
    let past = "at offset 1099511627776 ends after the end of the file (196616 bytes)";
    ours("", &[U64(40, 1 << 40)], &format!("Active L1 table {past}"));
    ours("", &[U64(48, 1 << 40)], &format!("Reference count table {past}"));
    ours("", &[U32(60, 1), U64(64, 1 << 40)], &format!("Snapshot table {past}"));
    ours("", &[U64(40, 1 << 56)], "Active L1 table offset invalid");
    // QEMU looks no further than the directory's content, which is none.
    let directory = |offset| [U64(88, 1), extensions(&[(0x2385_2875, &bitmaps(1, 0, 32, offset))])];
    let error = |offset| broken("", &directory(offset)).parse().unwrap_err().to_string();
    assert_eq!(error(0), "Bitmap directory overlaps with the header");
    assert_eq!(error(0x1_0000), "Bitmap directory overlaps with Reference count table");
    assert_eq!(error(0x3_0000), "Bitmap directory at offset 196608 ends after the end of the file (196616 bytes)");
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let image = Image::create("", "64M");
    let content = image.bytes();
    for len in [0, 3, 4, 8, 23, 71, 72, 103, 104, 512, 65535, 65536, 131_072, content.len() - 1] {
        assert!(super::images::parse(&content[..len]).is_err(), "{len} bytes");
    }
    super::images::parse(&content).unwrap();
}

#[test]
fn a_corrupt_image_is_not_written_to() {
    let image = broken("", &[U64(72, 2)]);
    let theirs = image.tool("qemu-io", ["-f", "qcow2", "-c", "read 0 512", "disk.qcow2"]).unwrap_err();
    let ours = image.parse().unwrap().writable().unwrap_err().to_string();
    assert!(theirs.contains(&ours), "{theirs}");
    image.patch(72, &[0; 8]);
    assert_eq!(image.parse().unwrap().writable(), Ok(()));
}
