//! Images that say what cannot be: errors, and nobody's clusters are given away.

use super::counts::number;
use super::machine::{Machine, image};
use crate::error::IoError;
use crate::node::qcow2::entry::Geometry;
use crate::node::qcow2::refcount::{Fault, OpenError, Refcounts, Run};
use std::sync::Arc;

const CLUSTER: u64 = 65536;

fn usual() -> Vec<u8> {
    image("cluster_size=64k", "1G")
}

fn put(content: &mut [u8], at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).unwrap();
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

fn allocate(machine: &mut Machine, refcounts: &Arc<Refcounts>) -> Result<Run, IoError> {
    let refcounts = refcounts.clone();
    machine.run(|io| Box::pin(async move { refcounts.allocate(&io, 1).await }))
}

#[test]
fn a_table_that_cannot_be_is_refused() {
    let content = usual();
    let length = content.len() as u64;
    let mut machine = Machine::new(1, content);
    let store = machine.store();
    let geometry = Geometry { version: 3, cluster_bits: 16, refcount_order: 4, external_data: false, extended: false };
    let mut open = |offset, clusters| {
        let store = store.clone();
        let open = async move |io| Refcounts::open(&io, store, geometry, offset, clusters).await.err();
        machine.run(|io| Box::pin(open(io)))
    };
    assert_eq!(open(CLUSTER, 1), None);
    for (offset, clusters) in [
        (0, 1),
        (CLUSTER + 512, 1),
        (CLUSTER, 0),
        (CLUSTER, 129),
        (CLUSTER, u32::MAX),
        (length, 1),
        (u64::MAX - CLUSTER + 1, 1),
    ] {
        assert_eq!(open(offset, clusters), Some(OpenError::Table), "{clusters} clusters at {offset:#x}");
    }
}

#[test]
fn an_entry_that_leads_to_no_block_is_an_error_and_not_a_block() {
    let length = usual().len() as u64;
    for entry in [512, CLUSTER, CLUSTER + 1, length, 1 << 60, u64::MAX << 16, 3 * CLUSTER / 2] {
        let mut content = usual();
        put(&mut content, CLUSTER, &entry.to_be_bytes());
        let mut machine = Machine::new(1, content.clone());
        let refcounts = machine.open();
        assert_eq!(allocate(&mut machine, &refcounts), Err(IoError::Io), "{entry:#x}");
        let asked = refcounts.clone();
        assert_eq!(machine.run(|io| Box::pin(async move { asked.get(&io, 0).await })), Err(IoError::Io), "{entry:#x}");
        machine.flush(&refcounts).unwrap();
        assert!(machine.content() == content, "{entry:#x}: a broken image was written to");
    }
}

#[test]
fn two_entries_with_one_block_are_not_two_blocks() {
    let mut content = usual();
    let block = number(&content, 65536, 8);
    put(&mut content, CLUSTER + 8, &block.to_be_bytes());
    let mut machine = Machine::new(1, content);
    let refcounts = machine.open();
    assert_eq!(refcounts.blocks(), [block]);
    let second = 32768 * CLUSTER;
    assert_eq!(machine.run(|io| Box::pin(async move { refcounts.get(&io, second).await })), Err(IoError::Io));
}

#[test]
fn metadata_that_is_not_counted_is_not_given_away() {
    let mut content = usual();
    let block = number(&content, 65536, 8);
    put(&mut content, block, &[0; 16]);
    let mut machine = Machine::new(1, content);
    let refcounts = machine.open();
    // Header, table and block are known; of the L1 table somebody has to tell.
    let l1 = number(&machine.content(), 40, 8);
    refcounts.protect(l1..l1 + 8);
    assert_eq!(allocate(&mut machine, &refcounts), Err(IoError::Io));
    assert_eq!(refcounts.take_fault(), Some(Fault::MetadataFree(0)));
    // Once they are held back by whoever repairs them, nothing is wrong.
    refcounts.reserve(0..l1 + CLUSTER);
    let taken: Vec<u64> = (0..3).map(|_| allocate(&mut machine, &refcounts).unwrap().host / CLUSTER).collect();
    assert_eq!(taken, [4, 5, 6]);
}

#[test]
fn what_is_not_counted_cannot_be_freed() {
    let mut machine = Machine::new(1, usual());
    let refcounts = machine.open();
    let run = allocate(&mut machine, &refcounts).unwrap();
    for (host, clusters) in [(run.host, 2), (run.host + CLUSTER, 1), (1 << 50, 1), (u64::MAX - CLUSTER, 1)] {
        let freeing = refcounts.clone();
        let result = machine.run(|io| Box::pin(async move { freeing.release(&io, host, clusters).await }));
        assert_eq!(result, Err(IoError::Io), "{clusters} at {host:#x}");
    }
    let asked = refcounts.clone();
    assert_eq!(machine.run(|io| Box::pin(async move { asked.get(&io, run.host).await })), Ok(1));
}
