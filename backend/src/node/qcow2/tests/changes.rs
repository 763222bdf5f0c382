//! Bitmaps that outlive power cuts: the stream of writes and syncs to an image, its change journal and its data file is
//! recorded, cut at any moment with what was not stable lost, reordered and torn, and the image opened again.
//!
//! Every bitmap that was there is there then, marks at least what is not on the disk any more what it was, and after the
//! image was closed exactly what was written.

mod disk;
mod operator;
mod recording;
mod rig;
mod start;
mod storing;
mod strange;
mod truth;
mod verdict;

use super::bitmaps::made::Made;
use super::replay::choice::{Cut, every};
use super::replay::disks::{Disks, Losses, Survival};
use recording::Recording;
use rig::{DATA, Files, IMAGE};
use start::{SHAPES, Start};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use verdict::{Journal, judge, look};

/// Recordings of one image: each of the others begins with what a cut of the one before has left.
const ROUNDS: u64 = 2;

/// What was seen.
#[derive(Default)]
struct Tally {
    recordings: usize,
    cuts: usize,
    phases: BTreeMap<&'static str, usize>,
    losses: Losses,
    beside_qemu: usize,
}

impl Tally {
    fn inside(&self) -> usize {
        self.phases.iter().filter(|(phase, _)| phase.starts_with("checkpoint")).map(|(_, count)| count).sum()
    }
}

/// So many cuts of a recording, in order: as many in each phase.
fn choose(recording: &Recording, count: usize, random: &mut fastrand::Rng) -> Vec<Cut> {
    let mut by_phase: BTreeMap<&str, Vec<Cut>> = BTreeMap::new();
    for cut in every(&recording.files.contents, &recording.events, random).into_iter().flatten() {
        by_phase.entry(recording.phases.at(cut.events)).or_default().push(cut);
    }
    let mut phases: Vec<Vec<Cut>> = by_phase.into_values().collect();
    phases.iter_mut().for_each(|cuts| random.shuffle(cuts));
    let longest = phases.iter().map(Vec::len).max().unwrap_or(0);
    let mut chosen: Vec<Cut> = (0..longest)
        .flat_map(|at| phases.iter().filter_map(move |cuts| cuts.get(at).copied()).collect::<Vec<_>>())
        .take(count)
        .collect();
    chosen.sort_by_key(|cut| cut.events);
    chosen
}

/// What is on the disks after so many events, if nothing is lost.
fn replay_files(recording: &Recording, events: usize) -> Vec<Vec<u8>> {
    let mut disks = Disks::new(&recording.files.contents);
    disks.advance(&recording.events, events);
    disks.cut(Survival::Everything).0
}

/// Makes `count` cuts of a recording; returns what one of them has left.
fn replay(recording: &Recording, count: usize, tally: &mut Tally) -> Start {
    let mut random = fastrand::Rng::with_seed(recording.seed);
    let cuts = choose(recording, count, &mut random);
    let goes_on = random.usize(0..cuts.len());
    let (mut disks, mut left) = (Disks::new(&recording.files.contents), None);
    for (number, cut) in cuts.into_iter().enumerate() {
        disks.advance(&recording.events, cut.events);
        let (contents, losses) = disks.cut(cut.survival);
        let files = Files { contents, journal: recording.has_journal_file(cut.events, &mut random) };
        let judged = catch_unwind(AssertUnwindSafe(|| {
            let found = look(number as u64, &files, &recording.truth.windows)?;
            let begun = judge(recording, cut.events, Journal::Whole, &found)?;
            Ok::<_, String>((found, begun))
        }));
        let (all, phase) = (recording.events.len(), recording.phases.at(cut.events));
        let which = || {
            format!(
                "cut {}: recording {} ({:?}), {cut:?} of {all}: {phase}",
                tally.cuts, recording.seed, recording.shape
            )
        };
        let Ok(judged) = judged else { panic!("{}", which()) };
        let (found, begun) = judged.unwrap_or_else(|wrong| panic!("{}\n{wrong}", which()));
        *tally.phases.entry(phase).or_default() += 1;
        tally.losses.dropped += losses.dropped;
        tally.losses.torn += losses.torn;
        tally.cuts += 1;
        if number == goes_on {
            left = Some(Start::after(recording.shape, files, recording.truth.windows.clone(), found, begun));
        }
    }
    left.expect("there is one cut at least")
}

/// What QEMU reads of an image that was closed is what it is to be.
fn look_beside_qemu(recording: &Recording, tally: &mut Tally) {
    let contents = replay_files(recording, recording.events.len());
    if contents.len() > DATA {
        // It asks for the data file by its name.
        return;
    }
    let made = Made::of(&contents[IMAGE]);
    let found = look(0, &Files { contents, journal: false }, &recording.truth.windows).unwrap();
    let told = made.told();
    assert_eq!(told.len(), found.bitmaps.len(), "recording {}", recording.seed);
    for (number, told) in told.iter().enumerate() {
        let ours = &found.bitmaps[&told.name];
        let records = ours.recording || (told.in_use && told.auto);
        assert_eq!((told.in_use, told.auto), (ours.inconsistent, records), "recording {}: {told:?}", recording.seed);
        if number == 0 && !told.in_use {
            let mut theirs = disk::Marks::new(told.granularity);
            made.marked(&told.name).iter().for_each(|run| theirs.mark(run));
            let apart = (theirs.outside(&ours.marks, found.size), ours.marks.outside(&theirs, found.size));
            assert_eq!(apart, (None, None), "recording {}: {told:?}", recording.seed);
            tally.beside_qemu += 1;
        }
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn a_power_cut_at_any_moment_leaves_bitmaps_that_mark_all_that_has_changed() {
    let (start, cuts) = (setting("START", 0), setting("CUTS", 160));
    let each = (cuts / (4 * SHAPES.len())).clamp(10, 100);
    let mut tally = Tally::default();
    for seed in (start as u64).. {
        if tally.cuts >= cuts {
            break;
        }
        let shape = SHAPES[usize::try_from(seed).unwrap() % SHAPES.len()];
        let mut start = Start::new(shape, &mut fastrand::Rng::with_seed(seed));
        for round in 0..ROUNDS {
            let seed = seed * ROUNDS + round;
            let recording = catch_unwind(AssertUnwindSafe(|| Recording::make(seed, start)));
            let Ok(recording) = recording else { panic!("recording {seed} ({shape:?}), after {} cuts", tally.cuts) };
            tally.recordings += 1;
            start = replay(&recording, each, &mut tally);
            look_beside_qemu(&recording, &mut tally);
        }
    }
    let inside = tally.inside();
    let Tally { recordings, cuts, phases, losses: Losses { dropped, torn }, beside_qemu } = tally;
    println!("{cuts} power cuts in {recordings} recordings, {inside} inside a checkpoint:");
    phases.iter().for_each(|(phase, count)| println!("  {count:6} {phase}"));
    println!("  {dropped} changes lost, {torn} torn; QEMU has read {beside_qemu} bitmaps of images that were closed");
    assert!(inside * 10 >= cuts, "cuts inside a checkpoint are what counts");
}
