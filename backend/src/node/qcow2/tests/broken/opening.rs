//! Headers and files that are not what an image is: refused with a reason, or read as far as they can be.

use super::rig::{Broken, CLUSTER, L2, image, options, put};
use crate::error::IoError;
use crate::node::Kind;
use crate::node::qcow2::open::Options;

#[test]
fn a_file_that_ends_early_is_refused_or_fails_where_it_ends() {
    let whole = image("compat=1.1");
    for len in [0, 4, 72, 103, 112, 512, CLUSTER, CLUSTER + 8, 2 * CLUSTER, 3 * CLUSTER] {
        for read_only in [false, true] {
            let opened = Broken::try_open(whole[..len].to_vec(), Options { read_only, ..options() });
            assert!(opened.is_err(), "{len} bytes");
        }
    }
    let text = Broken::try_open(whole[..3 * CLUSTER].to_vec(), options()).err().unwrap().to_string();
    assert_eq!(text, "Active L1 table at offset 196608 ends after the end of the file (196608 bytes)");
    // Without the L2 table nothing is known of its clusters; without data the blocks fail that had it.
    for (clusters, good) in [(4, 0), (5, 0), (6, 1), (7, 2), (9, 4)] {
        let mut broken = Broken::open(whole[..clusters * CLUSTER].to_vec());
        for guest in 0..5 {
            let expected = if guest < good { Ok(1) } else { Err(IoError::Io) };
            assert_eq!(broken.read(guest * CLUSTER), expected, "{clusters} clusters, guest cluster {guest}");
        }
    }
}

#[test]
fn huge_tables_of_tiny_files_are_refused_without_reading_them() {
    // L1 entries, refcount table clusters, snapshots: the most that limits let pass.
    for (offset, value) in [(36, 4 << 20), (56, 128), (60, 65536)] {
        let mut content = image("compat=1.1");
        content[offset..offset + 4].copy_from_slice(&u32::to_be_bytes(value));
        let error = Broken::try_open(content, options()).err().map(|error| error.to_string());
        let error = error.unwrap_or_else(|| panic!("{offset}: opened"));
        assert!(
            ["ends after the end", "overlaps with", "offset invalid"].iter().any(|text| error.contains(text)),
            "{error}"
        );
    }
}

#[test]
fn headers_with_any_byte_changed_are_refused_or_opened_and_never_more() {
    let whole = image("compat=1.1");
    let mut opened = 0;
    for offset in 0..160 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut content = whole.clone();
            content[offset] = value;
            let Ok(mut broken) = Broken::try_open(content, options()) else { continue };
            opened += 1;
            let length = broken.machine.node.as_ref().unwrap().length();
            if length >= 2 * CLUSTER as u64 {
                let _ = broken.run(Kind::Read, 0, 0);
                let _ = broken.run(Kind::Write, CLUSTER, 9);
                let _ = broken.run(Kind::Discard, 0, 0);
            }
            let _ = broken.machine.close();
        }
    }
    assert!(opened > 100, "only {opened} were opened: the rest says nothing");
}

#[test]
fn entries_with_any_bit_changed_do_no_harm_to_metadata_of_others() {
    let whole = image("compat=1.1");
    for bit in 0..64 {
        let mut content = whole.clone();
        put(&mut content, L2 + 8, 0x8000_0000_0006_0000 ^ 1 << bit);
        let before = content.clone();
        let mut broken = Broken::open(content);
        let _ = broken.read(CLUSTER);
        let _ = broken.run(Kind::Write, CLUSTER, 9);
        let _ = broken.run(Kind::Write, 2 * CLUSTER, 9);
        let _ = broken.run(Kind::Flush, 0, 0);
        let after = broken.content();
        let same = |from: usize, to: usize| after[from..to] == before[from..to];
        assert!(same(CLUSTER, 2 * CLUSTER) && same(3 * CLUSTER, 4 * CLUSTER), "bit {bit}: refcount table, L1 table");
        assert!(same(L2 + 16, 5 * CLUSTER), "bit {bit}: other entries");
    }
}
