//! Broken directories and tables: refused in QEMU's words where QEMU refuses them.

use super::image::Bitmapped;
use crate::node::qcow2::bitmap_directory::{DirectoryError, Image, NotStorable, check_storable};
use crate::node::qcow2::bitmap_directory::{parse, parse_table, to_bytes};

/// An image with the bitmaps `one` and `two`, and bytes written into its directory.
fn broken(patches: &[(u64, &[u8])]) -> Bitmapped {
    let image = Bitmapped::create("", "64M", &["one", "two"]);
    let offset = image.header().bitmaps.unwrap().offset;
    patches.iter().for_each(|(at, bytes)| image.write(offset + at, bytes));
    image
}

/// QEMU refuses the directory, and we say what QEMU says.
fn same(patches: &[(u64, &[u8])]) {
    let image = broken(patches);
    assert_eq!(image.parse().unwrap_err().to_string(), image.refusal(), "{patches:?}");
}

#[test]
fn entries_out_of_range_are_refused_in_the_words_of_qemu() {
    let patches: [(u64, &[u8]); 16] = [
        (0, &[0; 8]),
        (6, &[2, 0]),
        (8, &[0; 4]),
        (8, &[0, 0, 0, 2]),
        (8, &[0, 0, 0x20, 1]),
        (8, &[8, 0, 0, 1]),
        (12, &[0, 0, 0, 4]),
        (12, &[0, 0, 0, 8]),
        (12, &[0x80, 0, 0, 0]),
        (16, &[0]),
        (16, &[2]),
        (17, &[8]),
        (17, &[32]),
        (18, &[0, 60]),
        (18, &[0xff, 0xff]),
        (20, &[0, 1, 0, 0]),
    ];
    patches.into_iter().for_each(|patch| same(&[patch]));
}

#[test]
fn entries_that_do_not_go_together_are_refused_in_the_words_of_qemu() {
    // The second bitmap is named as the first.
    same(&[(32 + 24, b"one")]);
    // Its name reaches over the end.
    same(&[(32 + 18, &[0, 9])]);
    // The first has extra data up to the end of its entry.
    same(&[(18, &[0, 3]), (20, &[0, 0, 0, 5])]);
}

#[test]
fn another_number_of_bitmaps_than_the_header_says_is_refused_in_the_words_of_qemu() {
    let image = broken(&[]);
    let (directory, header) = (image.directory(), image.header());
    for count in [1, 3] {
        let bitmaps = header.bitmaps.map(|bitmaps| crate::node::qcow2::header::BitmapsExtension { count, ..bitmaps });
        image.write(0, &crate::node::qcow2::header::Header { bitmaps, ..header.clone() }.to_bytes().unwrap());
        assert_eq!(parse(&directory, count, image.image()).unwrap_err().to_string(), image.refusal());
    }
}

#[test]
fn a_table_in_use_may_be_that_of_another_size() {
    let image = broken(&[(8, &[0, 0, 0, 2]), (12, &[0, 0, 0, 3])]);
    image.io("quit");
    let entry = image.parse().unwrap().remove(0);
    assert_eq!((entry.table_entries, entry.in_use, entry.auto), (2, true, true));
}

#[test]
fn names_and_tables_that_are_nowhere_are_refused() {
    let constraints = Err(DirectoryError::Constraints("one".into()));
    assert_eq!(broken(&[(0, &(1_u64 << 40).to_be_bytes())]).parse(), constraints);
    assert_eq!(broken(&[(0, &(u64::MAX - 65535).to_be_bytes())]).parse(), constraints);
    assert_eq!(broken(&[(18, &[0, 0])]).parse(), Err(DirectoryError::Broken));
    assert_eq!(broken(&[(24, &[0xff; 3])]).parse(), Err(DirectoryError::NotText));
    assert_eq!(broken(&[(24, &[0; 3])]).parse(), Err(DirectoryError::Constraints(String::new())));
}

#[test]
fn tables_that_are_broken_are_refused_in_the_words_of_qemu() {
    for word in [2_u64, 512, 0x1_0001, 1 << 56, 1 << 63] {
        let image = broken(&[]);
        let entry = image.parse().unwrap().remove(0);
        image.write(entry.table_offset, &word.to_be_bytes());
        let (words, geometry) = (image.table(&entry), image.image().geometry);
        let error = parse_table("one", &words, geometry, image.file_length()).unwrap_err();
        assert_eq!(error.to_string(), image.refusal(), "{word:#x}");
    }
    let image = broken(&[]).image();
    parse_table("one", &[image.file_length], image.geometry, image.file_length).unwrap_err();
}

#[test]
fn no_bytes_make_it_panic() {
    let image = broken(&[]);
    let (directory, facts) = (image.directory(), image.image());
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..50_000 {
        let mut bytes = directory.clone();
        for _ in 0..random.usize(1..5) {
            let at = random.usize(..bytes.len());
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random.u8(..)][random.usize(..6)];
        }
        bytes.truncate(random.usize(..=bytes.len()));
        let Ok(entries) = parse(&bytes, random.u32(..3), facts) else { continue };
        // What was accepted can be written, and means the same then.
        let again = to_bytes(&entries).unwrap();
        assert_eq!(parse(&again, u32::try_from(entries.len()).unwrap(), facts), Ok(entries));
    }
}

#[test]
fn bitmaps_that_an_image_cannot_keep_are_refused_in_the_words_of_qemu() {
    let long = "n".repeat(1024);
    let cases = [("-o compat=v2", "1M", "b", 16), ("", "2P", "b", 9), ("", "1M", long.as_str(), 16)];
    for (options, size, name, bits) in cases {
        let image = Bitmapped::create(options, size, &[]);
        let ours = check_storable(name, bits, [], image.image()).unwrap_err().to_string();
        let arguments = format!("bitmap --add -g {} {} {name}", 1 << bits, image.path());
        let theirs = image.tool("qemu-img", &arguments).unwrap_err();
        assert!(theirs.trim_end().ends_with(&format!("': {ours}")), "{theirs}: {ours}");
    }
}

#[test]
fn the_largest_bitmaps_are_kept_by_us_and_by_qemu() {
    let image = Bitmapped::create("-o cluster_size=512", "128G", &[]);
    for (name, bits) in [("n".repeat(1023).as_str(), 9), ("coarse", 30)] {
        assert_eq!(check_storable(name, bits, [], image.image()), Ok(()));
        image.tool("qemu-img", &format!("bitmap --add -g {} {} {name}", 1 << bits, image.path())).unwrap();
    }
}

#[test]
fn an_image_keeps_65535_bitmaps_and_no_granularity_out_of_range() {
    let geometry = broken(&[]).image().geometry;
    let image = Image { geometry, size: 1 << 20, file_length: 1 << 20 };
    let many = vec!["some"; 65535];
    let named = |name, others: &[&str]| check_storable(name, 16, others.iter().copied(), image);
    assert_eq!(named("b", &many[1..]), Ok(()));
    assert_eq!(named("b", &many), Err(NotStorable::Count));
    let (longest, long) = ("n".repeat(1023), "n".repeat(1000));
    let longest = vec![longest.as_str(); 64034];
    assert_eq!(named(&long, &longest[1..]), Ok(()));
    assert_eq!(named(&long, &longest), Err(NotStorable::Directory));
    assert_eq!(check_storable("b", 8, [], image), Err(NotStorable::Fine));
    assert_eq!(check_storable("b", 32, [], image), Err(NotStorable::Coarse));
}
