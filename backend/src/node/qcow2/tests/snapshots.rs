//! Internal snapshots: read as QEMU took them, whatever a broken table says, and their tables belong to nobody else.

use super::machine::Machine;
use super::rig::Rig;
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::qcow2::description::Description;
use crate::node::qcow2::guarded;
use crate::node::qcow2::open::{OpenError, Options};
use crate::node::qcow2::snapshot::{SnapshotTable, TableError};
use crate::node::qcow2::store::Store;
use crate::node::{Kind, Request};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

const CLUSTER: usize = 65536;
/// Bits 9 to 55 of an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An image of 16 MiB with two snapshots, and data that only these have.
fn image(rig: &Rig) -> Vec<u8> {
    rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "image", "16M"]);
    rig.tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 1M", "image"]);
    rig.tool("qemu-img", &["snapshot", "-c", "first one", "image"]);
    rig.tool("qemu-io", &["-f", "qcow2", "-c", "write -P 2 0 64k", "image"]);
    rig.tool("qemu-img", &["snapshot", "-c", "", "image"]);
    rig.tool("qemu-io", &["-f", "qcow2", "-c", "write -P 3 0 1M", "image"]);
    std::fs::read(rig.path("image")).unwrap()
}

fn describe(rig: &mut Rig, name: &str) -> Result<Description, OpenError> {
    let file = rig.file(name);
    rig.run(|io| async move { Description::read(&io, &file).await })
}

fn number(content: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(content[at..at + 8].try_into().unwrap())
}

fn put(content: &mut [u8], at: usize, bytes: &[u8]) {
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Where the snapshot table is.
fn table(content: &[u8]) -> usize {
    byte_count(number(content, 64))
}

#[test]
fn snapshots_are_told_as_qemu_took_them() {
    let mut rig = Rig::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let content = image(&rig);
    let Description { header, snapshots, .. } = describe(&mut rig, "image").unwrap();
    let names: Vec<_> = snapshots.snapshots.iter().map(|one| (one.id.as_str(), one.name.as_str())).collect();
    assert_eq!(names, [("1", "first one"), ("2", "")]);
    for snapshot in &snapshots.snapshots {
        assert!(u64::from(snapshot.date_sec) >= now && u64::from(snapshot.date_sec) < now + 600);
        assert_eq!((snapshot.vm_clock_nsec, snapshot.vm_state_bytes, snapshot.icount), (0, 0, Some(0)));
        let range = snapshot.l1_range(header.geometry(), content.len() as u64).unwrap();
        assert_eq!(range.end - range.start, 8, "an L2 table maps 512 MiB");
        assert_ne!(number(&content, byte_count(range.start)) & OFFSET, 0);
    }
    let pieces = guarded::snapshots(&snapshots, header.geometry(), content.len() as u64);
    assert_eq!(pieces.len(), 3, "the table and two L1 tables");
}

#[test]
fn a_table_beyond_qemus_limits_is_refused() {
    let mut rig = Rig::new();
    let sound = image(&rig);
    let mut check = |at: usize, bytes: &[u8]| {
        let mut content = sound.clone();
        let at = table(&content) + at;
        put(&mut content, at, bytes);
        std::fs::write(rig.path("broken"), content).unwrap();
        describe(&mut rig, "broken")
    };
    assert!(check(36, &1024u32.to_be_bytes()).is_ok());
    assert_eq!(check(36, &1025u32.to_be_bytes()), Err(OpenError::Snapshots(TableError::ExtraData(0))));
}

#[test]
fn a_table_of_more_than_64_mib_is_refused() {
    let mut rig = Rig::new();
    // Names as long as they may be, in a file that is mostly hole.
    let entry = [&[0; 12][..], &u16::MAX.to_be_bytes(), &u16::MAX.to_be_bytes(), &[0; 24]].concat();
    let len = (40 + 2 * 65535u64).next_multiple_of(8);
    let file = File::create(rig.path("names")).unwrap();
    for number in 0..513 {
        file.write_all_at(&entry, number * len).unwrap();
    }
    let mut read = |count| {
        let file = rig.file("names");
        let table = rig.run(move |io| async move { SnapshotTable::read(&io, &Store::new(file), 0, count).await });
        table.map(|table| table.snapshots.len())
    };
    assert_eq!((read(511), read(512)), (Ok(511), Err(TableError::TooBig)));
}

#[test]
fn whatever_a_table_says_is_an_answer() {
    let mut rig = Rig::new();
    let sound = image(&rig);
    let mut random = fastrand::Rng::with_seed(5);
    let (mut told, mut refused) = (0, 0);
    for _ in 0..200 {
        let mut content = sound.clone();
        let at = table(&content) + random.usize(0..112);
        let broken: [u8; 8] = std::array::from_fn(|_| if random.bool() { 0xff } else { random.u8(..) });
        put(&mut content, at, &broken);
        content.truncate(if random.bool() { content.len() } else { at + random.usize(8..64) });
        std::fs::write(rig.path("broken"), &content).unwrap();
        match describe(&mut rig, "broken") {
            Ok(found) => {
                told += 1;
                let pieces = guarded::snapshots(&found.snapshots, found.header.geometry(), content.len() as u64);
                assert!(pieces.iter().all(|(_, range)| range.end <= content.len() as u64 + 511), "{pieces:?}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(told > 50 && refused > 10, "{told} {refused}");
}

/// Writes to guest clusters 16 to 47 of a 16 MiB image and to cluster 0, and closes it; what its file has then.
fn written(content: Vec<u8>) -> (Vec<u8>, Result<(), IoError>) {
    let mut machine = Machine::new(3, &[content], 1);
    let options = Options {
        read_only: false,
        l2_cache_bytes: 0,
        refcount_cache_bytes: 0,
        pass_discard: false,
        journal: None,
        changes: None,
    };
    machine.open(options).unwrap();
    let mut first = Ok(());
    for cluster in (16..48).chain([0]) {
        let mut buf = Buf::new(CLUSTER);
        buf.as_mut_slice().fill(0xee);
        let offset = cluster * CLUSTER as u64;
        let request = Request { kind: Kind::Write, fua: false, offset, len: CLUSTER as u64, memory: Memory::from(buf) };
        let slot = machine.begin(0, request);
        while slot.borrow().is_none() {
            assert!(machine.step() || slot.borrow().is_some(), "a hang");
        }
        first = slot.take().unwrap().1;
    }
    // An image found broken may refuse to be closed in order.
    let _ = machine.close();
    (machine.contents().remove(0), first)
}

/// What the snapshot table and the L1 tables of snapshots have in it.
fn tables(content: &[u8]) -> Vec<Vec<u8>> {
    let at = table(content);
    let l1 = |entry: usize| byte_count(number(content, at + entry));
    // An entry has 40 bytes, 24 of extra data, its id and its name.
    [at, l1(0), l1(80)].map(|at| content[at..at + 112].to_vec()).to_vec()
}

#[test]
fn tables_of_snapshots_that_counts_call_free_are_given_to_nobody() {
    let rig = Rig::new();
    let mut content = image(&rig);
    let before = tables(&content);
    let table = table(&content);
    for host in [table, byte_count(number(&content, table)), byte_count(number(&content, table + 80))] {
        // The refcount block of a new image is its third cluster; a count has two bytes.
        put(&mut content, 2 * CLUSTER + host / CLUSTER * 2, &[0, 0]);
    }
    // An image as broken as that may refuse to be written to.
    let (after, _) = written(content);
    assert!(tables(&after) == before, "a table was written over");
}

#[test]
fn an_entry_that_leads_into_a_table_of_a_snapshot_writes_nothing_there() {
    let rig = Rig::new();
    let sound = image(&rig);
    let l2 = byte_count(number(&sound, byte_count(number(&sound, 40))) & OFFSET);
    let at = table(&sound);
    for table in [at as u64, number(&sound, at)] {
        let mut content = sound.clone();
        put(&mut content, l2, &(table | 1 << 63).to_be_bytes());
        let before = tables(&content);
        let (after, result) = written(content);
        assert!(result.is_err(), "{table:#x}");
        assert!(tables(&after) == before, "{table:#x}: a table was written over");
    }
}
