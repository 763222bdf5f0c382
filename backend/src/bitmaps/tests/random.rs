//! Random verbs, writes and transactions on two disks: after each step every bitmap is what the plain evaluator says.

use super::disk::{Disk, Disks, Write, offsets};
use super::naive::{Key, Marks, Naive};
use super::past;
use crate::bitmaps::{BitmapError, BitmapInfo, Committed, Frozen, Outcome, Stage, Tracked};
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;
use tidemark_cbt::{Bitmap, Granularity};

/// An action of a transaction.
#[derive(Clone, Debug)]
enum Verb {
    Add(Key, u64, bool),
    Remove(Key),
    Clear(Key),
    Enable(Key),
    Disable(Key),
    Merge(Key, Vec<Key>),
    /// A backup.
    Freeze(Key),
}

/// Disk, offset and length.
type Range = (usize, u64, u64);

#[derive(Clone, Debug)]
enum Step {
    Write(Range),
    /// Verbs, whether the last action is `abort`, writes under way at the point in time, writes between it and the
    /// grace.
    Transaction(Vec<Verb>, bool, Vec<Range>, Vec<Range>),
    /// A bitmap in use by number, whether it is used up, what is left, a write under way.
    Release(usize, bool, Option<(u64, Vec<u64>)>, Range),
    Resize(usize, u64, Range),
}

const LENS: [u64; 4] = [60 * 512, 64 * 512, 64 * 512 + 100, 200 * 512];

fn key() -> impl Strategy<Value = Key> {
    (0..2usize, select(vec!["a", "b", "c"])).prop_map(|(disk, name)| (disk, name.to_owned()))
}

fn range() -> impl Strategy<Value = Range> {
    (0..2usize, 0..110_000u64, 1..9000u64)
}

fn verb() -> impl Strategy<Value = Verb> {
    let block = prop_oneof![20 => select(vec![512u64, 1024, 4096]), 1 => select(vec![0, 256, 513])];
    prop_oneof![
        6 => (key(), block, any::<bool>()).prop_map(|(key, block, disabled)| Verb::Add(key, block, disabled)),
        2 => key().prop_map(Verb::Remove),
        3 => key().prop_map(Verb::Clear),
        2 => key().prop_map(Verb::Enable),
        2 => key().prop_map(Verb::Disable),
        5 => (key(), prop::collection::vec(key(), 0..3)).prop_map(|(target, sources)| Verb::Merge(target, sources)),
        3 => key().prop_map(Verb::Freeze),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let verbs = prop_oneof![3 => prop::collection::vec(verb(), 1..2), 2 => prop::collection::vec(verb(), 2..9)];
    let ranges = || prop::collection::vec(range(), 0..3);
    let left = prop::option::of((select(vec![512u64, 4096]), prop::collection::vec(0..64u64, 0..5)));
    prop_oneof![
        4 => range().prop_map(Step::Write),
        6 => (verbs, prop::bool::weighted(0.1), ranges(), ranges())
            .prop_map(|(verbs, abort, before, after)| Step::Transaction(verbs, abort, before, after)),
        3 => (any::<usize>(), any::<bool>(), left, range())
            .prop_map(|(which, used_up, left, write)| Step::Release(which, used_up, left, write)),
        1 => (0..2usize, select(LENS.to_vec()), range()).prop_map(|(disk, len, write)| Step::Resize(disk, len, write)),
    ]
}

fn submit(disks: &Disks, naive: &mut Naive, (disk, offset, len): Range) -> Write {
    naive.write(disk, offset, len);
    disks[disk].submit(offset, len)
}

fn stage(disks: &Disks, stage: &mut Stage<Disk>, verb: &Verb) -> Result<Option<Frozen>, BitmapError> {
    let at = |key: &Key| disks[key.0].clone();
    match verb {
        Verb::Add(key, block, disabled) => stage.add(&at(key), &key.1, Some(*block), false, *disabled),
        Verb::Remove(key) => stage.remove(&at(key), &key.1),
        Verb::Clear(key) => stage.clear(&at(key), &key.1),
        Verb::Enable(key) => stage.enable(&at(key), &key.1),
        Verb::Disable(key) => stage.disable(&at(key), &key.1),
        Verb::Merge(target, sources) => {
            let sources: Vec<_> = sources.iter().map(|key| (at(key), key.1.clone())).collect();
            stage.merge(&at(target), &target.1, &sources)
        }
        Verb::Freeze(key) => return stage.freeze(&at(key), &key.1, true).map(Some),
    }
    .map(|()| None)
}

fn evaluate(naive: &mut Naive, verb: &Verb) -> Result<Option<Marks>, String> {
    match verb {
        Verb::Add(key, block, disabled) => naive.add(key, *block, *disabled),
        Verb::Remove(key) => naive.remove(key),
        Verb::Clear(key) => naive.clear(key),
        Verb::Enable(key) => naive.free(key).map(|named| named.enabled = true),
        Verb::Disable(key) => naive.free(key).map(|named| named.enabled = false),
        Verb::Merge(target, sources) => naive.merge(target, sources),
        Verb::Freeze(key) => return naive.freeze(key).map(Some),
    }
    .map(|()| None)
}

/// All actions or none, in one point in time that writes go past.
fn transact(disks: &Disks, naive: &mut Naive, verbs: &[Verb], abort: bool, before: &[Range], after: &[Range]) {
    let under_way: Vec<Write> = before.iter().map(|range| submit(disks, naive, *range)).collect();
    let (mut staged, mut plain) = (Stage::new(), naive.clone());
    let mut frozen = Vec::new();
    for verb in verbs {
        let ours = stage(disks, &mut staged, verb).map_err(|error| error.to_string());
        let expected = evaluate(&mut plain, verb);
        assert_eq!(ours.as_ref().err(), expected.as_ref().err(), "{verb:?}");
        let (Ok(ours), Ok(expected)) = (ours, expected) else { return under_way.iter().for_each(Write::end) };
        if let (Verb::Freeze(key), Some(ours), Some(expected)) = (verb, ours, expected) {
            frozen.push((naive.lens[key.0], ours, expected));
        }
    }
    if abort {
        return under_way.iter().for_each(Write::end);
    }
    staged.prepare().unwrap();
    let concerned = staged.nodes();
    let committed: Committed = staged.commit();
    plain.commit((0..disks.len()).filter(|number| concerned.iter().any(|disk| Arc::ptr_eq(disk, &disks[*number]))));
    *naive = plain;
    let later: Vec<Write> = after.iter().map(|range| submit(disks, naive, *range)).collect();
    under_way.iter().for_each(Write::end);
    committed.settle();
    later.iter().for_each(Write::end);
    frozen.iter().for_each(|(disk, ours, expected)| check_frozen(*disk, ours, expected));
    disks.iter().zip(&mut naive.pasts).for_each(|(disk, past)| past.note_name(disk.tracking().last_point()));
}

/// What a backup is told to copy is what the bitmap held; finer, where it came from finer ones.
fn check_frozen(len: u64, ours: &Frozen, expected: &Marks) {
    let mut rounded = Marks { block: expected.block, ..Marks::default() };
    for leaf in ours.leaves() {
        let block = leaf.granularity().bytes();
        offsets(leaf).iter().for_each(|offset| rounded.mark(*offset, block, len));
    }
    assert!(rounded.blocks.is_subset(&expected.blocks), "more than the bitmap holds");
    if ours.leaves().iter().all(|leaf| leaf.granularity().bytes() >= expected.block) {
        assert_eq!(rounded.blocks, expected.blocks);
    }
}

fn release(disks: &Disks, naive: &mut Naive, which: usize, used_up: bool, left: Option<&Marks>, write: Range) {
    let used: Vec<Key> =
        naive.bitmaps.iter().filter(|(_, named)| named.successor.is_some()).map(|(key, _)| key.clone()).collect();
    let Some(key) = (!used.is_empty()).then(|| &used[which % used.len()]) else { return };
    let under_way = submit(disks, naive, write);
    let len = naive.lens[key.0];
    let left = left.filter(|_| used_up);
    naive.release(key, used_up, left);
    let copy = |marks: &Marks| {
        let bitmap = Bitmap::new(len, Granularity::new(marks.block).unwrap()).unwrap();
        marks.offsets().iter().for_each(|offset| bitmap.mark(*offset, 1));
        Arc::new(bitmap)
    };
    let outcome = if used_up { Outcome::Replace(left.map(copy)) } else { Outcome::Keep };
    disks[key.0].release(&key.1, outcome, &[under_way]);
}

fn resize(disks: &Disks, naive: &mut Naive, disk: usize, len: u64, write: Range) {
    let under_way = submit(disks, naive, write);
    let expected = naive.resize(disk, len);
    let ours = disks[disk].resize(len, &[under_way]);
    assert_eq!(ours.map_err(|error| error.to_string()), expected);
}

fn run(disks: &Disks, naive: &mut Naive, step: Step) {
    match step {
        Step::Write(range) => submit(disks, naive, range).end(),
        Step::Transaction(verbs, abort, before, after) => transact(disks, naive, &verbs, abort, &before, &after),
        Step::Release(which, used_up, left, write) => {
            let left = left.map(|(block, blocks)| Marks { block, blocks: blocks.into_iter().collect() });
            release(disks, naive, which, used_up, left.as_ref(), write);
        }
        Step::Resize(disk, len, write) => resize(disks, naive, disk, len, write),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn verbs_in_any_order_do_what_the_plain_evaluator_does(
        steps in prop::collection::vec((step(), any::<usize>()), 1..40)
    ) {
        let lens = [LENS[1], LENS[1]];
        let disks = ["d0", "d1"].map(|name| Disk::new(name, lens[0]));
        let mut naive = Naive::new(&lens);
        for (step, probe) in steps {
            run(&disks, &mut naive, step);
            for (number, disk) in disks.iter().enumerate() {
                let listed = disk.tracking().list().into_iter();
                let listed: Vec<_> = listed.map(|info| BitmapInfo { since: None, ..info }).collect();
                prop_assert_eq!(listed, naive.list(number));
                past::check(disk, &naive, number, probe);
            }
            for ((disk, name), named) in &naive.bitmaps {
                prop_assert_eq!(disks[*disk].marked(name), named.marks.offsets(), "{} {}", disk, name);
            }
        }
    }
}
