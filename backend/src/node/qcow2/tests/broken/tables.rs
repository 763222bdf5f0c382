//! Tables that overlap, and reference counts that are wrong.

use super::rig::{Broken, CLUSTER, COPIED, L1, L2, REFBLOCK, REFTABLE, count, image, put, short};
use crate::error::IoError;
use crate::node::Kind;

/// A write that takes a new cluster, of an image where something is wrong.
fn allocate(change: impl FnOnce(&mut Vec<u8>)) -> (Broken, Vec<u8>, Result<Vec<u8>, IoError>) {
    let mut content = image("compat=1.1");
    change(&mut content);
    let mut broken = Broken::open(content.clone());
    let result = broken.run(Kind::Write, 1 << 20, 3);
    (broken, content, result)
}

#[test]
fn metadata_that_its_counts_call_free_is_not_given_to_guests() {
    for (cluster, name) in [
        (0, "qcow2_header"),
        (1, "refcount table"),
        (2, "refcount block"),
        (3, "active L1 table"),
        (4, "active L2 table"),
    ] {
        let (mut broken, before, result) = allocate(|content| count(content, cluster, 0));
        assert_eq!(result, Err(IoError::Io), "{name}");
        let text = format!("!Preventing invalid write on metadata (overlaps with {name}) {}+65536", cluster * CLUSTER);
        assert_eq!(short(&broken.told()), [text]);
        assert_eq!((broken.durable()[79], broken.read(0)), (2, Ok(1)), "{name}");
        assert!(broken.content()[CLUSTER..before.len()] == before[CLUSTER..], "{name}: nothing else is written");
    }
}

#[test]
fn a_refcount_block_that_is_none_ends_writing() {
    for (entry, text) in [
        (0x2_0200, "!Refblock offset 0x20200 unaligned (reftable index: 0)"),
        (1 << 40, "!Refblock offset 0x10000000000 is outside the file or that of other metadata (reftable index: 0)"),
        (0x1_0000, "!Refblock offset 0x10000 is outside the file or that of other metadata (reftable index: 0)"),
    ] {
        let (mut broken, before, result) = allocate(|content| put(content, REFTABLE, entry));
        assert_eq!((result, short(&broken.told())), (Err(IoError::Io), vec![text.to_owned()]));
        assert_eq!(broken.read(0), Ok(1));
        assert!(broken.content()[CLUSTER..before.len()] == before[CLUSTER..]);
    }
}

#[test]
fn a_cluster_that_is_freed_and_was_not_counted_ends_writing() {
    let mut content = image("compat=1.1");
    count(&mut content, 6, 0);
    let mut broken = Broken::open(content);
    broken.run(Kind::Discard, CLUSTER, 0).unwrap();
    broken.run(Kind::Flush, 0, 0).unwrap();
    let text = "!Cluster 0x60000 was in use, but its reference count is 0";
    assert_eq!(short(&broken.told()), [text]);
    assert_eq!(broken.run(Kind::Write, 1 << 20, 3), Err(IoError::Io));
    assert_eq!((broken.durable()[79], broken.read(0)), (2, Ok(1)));
}

/// Guest cluster 1 leads to host cluster 6, which is free, the counts say.
fn with_a_free_cluster_in_use() -> Vec<u8> {
    let mut content = image("compat=1.1");
    count(&mut content, 6, 0);
    content
}

#[test]
fn what_leads_to_a_cluster_that_becomes_a_table_leads_nowhere_from_then_on() {
    // Whether the entry is in memory by then or comes later.
    for in_memory in [true, false] {
        let mut broken = Broken::open(with_a_free_cluster_in_use());
        if in_memory {
            assert_eq!(broken.read(CLUSTER), Ok(1));
        }
        // The first cluster that is free becomes the second L2 table.
        broken.run(Kind::Write, 1 << 30, 3).unwrap();
        broken.run(Kind::Flush, 0, 0).unwrap();
        let table = broken.content()[6 * CLUSTER..7 * CLUSTER].to_vec();
        assert_eq!(u64::from_be_bytes(broken.content()[L1 + 16..L1 + 24].try_into().unwrap()), COPIED | 0x6_0000);
        assert_eq!(broken.run(Kind::Write, CLUSTER, 9), Err(IoError::Io), "in memory: {in_memory}");
        let text = "!Preventing invalid write on metadata (overlaps with active L2 table) 393216+65536";
        assert_eq!(short(&broken.told()), [text]);
        assert!(broken.content()[6 * CLUSTER..7 * CLUSTER] == table, "the table is as it was");
        assert_eq!(broken.read(1 << 30), Ok(3));
    }
}

#[test]
fn tables_that_lead_to_each_other_or_to_themselves_fail_where_they_do() {
    // Two L1 entries for one table; a table among its own entries; a table that is a refcount block's.
    for (second, entry) in [(COPIED | L2 as u64, 0), (0, COPIED | L2 as u64), (COPIED | REFBLOCK as u64, 0)] {
        let mut content = image("compat=1.1");
        put(&mut content, L1 + 8, second);
        put(&mut content, L2 + 8 * 5, entry);
        let before = content.clone();
        let mut broken = Broken::open(content);
        let at = if second != 0 { 512 << 20 } else { 5 * CLUSTER };
        assert_eq!((broken.read(at), broken.read(0)), (Err(IoError::Io), Ok(1)), "{second:#x} {entry:#x}");
        assert_eq!(broken.run(Kind::Write, at, 9), Err(IoError::Io), "{second:#x} {entry:#x}");
        assert!(broken.content()[CLUSTER..] == before[CLUSTER..], "{second:#x} {entry:#x}");
    }
}

#[test]
fn nothing_leads_into_the_tables_of_snapshots() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, image("compat=1.1")).unwrap();
    super::rig::qemu(&["qemu-img", "snapshot", "-c", "s", path.to_str().unwrap()]);
    let content = std::fs::read(&path).unwrap();
    let word = |at: usize| u64::from_be_bytes(content[at..at + 8].try_into().unwrap());
    let table = usize::try_from(word(64)).unwrap();
    for (host, name) in [(word(64), "snapshot table"), (word(table), "inactive L1 table")] {
        let mut content = content.clone();
        put(&mut content, L2 + 8, COPIED | host);
        let l1 = usize::try_from(u64::from_be_bytes(content[40..48].try_into().unwrap())).unwrap();
        put(&mut content, l1, COPIED | L2 as u64);
        let mut broken = Broken::open(content);
        assert_eq!(broken.run(Kind::Write, CLUSTER, 9), Err(IoError::Io), "{name}");
        let text = format!("!Preventing invalid write on metadata (overlaps with {name}) {host}+65536");
        assert_eq!(short(&broken.told()), [text]);
    }
}
