//! What becomes of chunks, and when the target may take the source's place. Mirrors at work are tested with their jobs.

use super::Mirroring;
use crate::error::IoError;
use crate::node::options::{DriverOptions, NullOptions};
use crate::node::{Driver, Node, NodeOptions, Null};
use std::sync::Arc;
use tidemark_cbt::Granularity;

const CHUNK: u64 = 4096;
/// Two chunks and a half.
const LEN: u64 = 2 * CHUNK + CHUNK / 2;

fn node(name: &str) -> Arc<Node> {
    let null = NullOptions { size: LEN, read_zeroes: true, latency_ns: 0 };
    let options = NodeOptions::new(DriverOptions::Null(null.clone()));
    Arc::new(Node::new(name.to_owned(), true, &options, LEN, Driver::Null(Null::new(null))))
}

fn mirror() -> Arc<Mirroring> {
    Mirroring::new(&node("d"), &node("t"), Granularity::new(CHUNK).unwrap(), true).unwrap()
}

#[test]
fn a_chunk_is_clean_when_a_request_has_changed_all_of_it_on_both_sides() {
    for (range, left) in [
        (0..CHUNK, CHUNK..LEN),
        (0..CHUNK + 512, CHUNK..LEN),
        (2 * CHUNK..LEN, 0..2 * CHUNK),
        (0..LEN, LEN..LEN),
        (512..CHUNK, 0..LEN),
        (512..1024, 0..LEN),
    ] {
        let mirror = mirror();
        mirror.settle();
        mirror.mark(0, LEN);
        mirror.owed().mark(0, LEN);
        mirror.done(range.clone());
        let marked = [mirror.dirty(), mirror.owed()].map(|bitmap| bitmap.next_marked(0).unwrap_or(LEN..LEN));
        assert_eq!(marked, [left.clone(), left.clone()], "{range:?}");
        assert_eq!(mirror.is_clean(), left.is_empty(), "{range:?}");
    }
}

#[test]
fn nothing_is_clean_while_requests_from_before_may_still_change_the_source() {
    let mirror = mirror();
    mirror.mark(0, LEN);
    mirror.done(0..LEN);
    assert!(mirror.dirty().marks_all(0, LEN));
    mirror.settle();
    mirror.done(0..LEN);
    assert!(mirror.is_clean());
}

#[test]
fn what_differs_or_has_failed_keeps_the_target_from_taking_over() {
    let differs: [fn(&Mirroring); 3] = [
        |mirror| mirror.mark(0, 1),
        |mirror| mirror.owed().mark(CHUNK, 1),
        |mirror| assert_eq!(mirror.fail(0..512, IoError::NoSpace), Ok(()), "the guest is told nothing"),
    ];
    for differ in differs {
        let mirror = mirror();
        mirror.settle();
        differ(&mirror);
        assert!(!mirror.seal());
        mirror.take_failure();
        mirror.done(0..LEN);
        assert!(mirror.seal(), "it is in sync again");
    }
}

#[test]
fn what_fails_on_the_target_fails_the_request_once_it_is_the_disk() {
    let mirror = mirror();
    assert!(mirror.seal());
    assert_eq!(mirror.fail(0..512, IoError::NoSpace), Err(IoError::NoSpace));
    assert!(mirror.dirty().is_empty() && mirror.take_failure().is_none());
}
