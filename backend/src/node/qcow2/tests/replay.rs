//! The power fails at any moment of a recorded load: of the writes that were not stable any may be lost, torn and
//! reordered, and yet every block that a guest has flushed is there, no block has another's content, and the image is
//! not corrupt.

pub(super) mod choice;
pub(super) mod disks;
mod guest;
mod image;
mod past;
mod phases;
mod snapshots;
mod stream;
mod verdict;

use choice::{Cut, choose};
use disks::{Disks, Losses, Survival};
use image::KINDS;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use stream::Stream;

/// Every so many cuts QEMU looks at the image as well.
const BESIDE_QEMU: usize = 20;

/// What was seen.
#[derive(Default)]
struct Tally {
    streams: usize,
    cuts: usize,
    inside: usize,
    after_failed_flushes: usize,
    beside_qemu: usize,
    phases: BTreeMap<String, usize>,
    losses: Losses,
}

impl Tally {
    fn count(&mut self, stream: &Stream, cut: Cut, losses: Losses) {
        self.cuts += 1;
        self.inside += usize::from(stream.is_inside(cut.events));
        self.after_failed_flushes += usize::from(stream.has_lost(cut.events));
        *self.phases.entry(stream.phase(cut.events).to_owned()).or_default() += 1;
        self.losses.dropped += losses.dropped;
        self.losses.torn += losses.torn;
    }
}

/// Makes `count` cuts of one recording.
fn replay(seed: u64, count: usize, tally: &mut Tally) {
    let stream = catch_unwind(|| Stream::record(seed));
    let Ok(stream) = stream else { panic!("recording {seed}, after {} cuts of others", tally.cuts) };
    tally.streams += 1;
    let mut disks = Disks::new(&stream.made.files);
    for cut in choose(&stream, count) {
        disks.advance(&stream.events, cut.events);
        let (files, losses) = disks.cut(cut.survival);
        tally.count(&stream, cut, losses);
        let beside_qemu = tally.cuts.is_multiple_of(BESIDE_QEMU);
        tally.beside_qemu += usize::from(beside_qemu);
        let number = tally.cuts as u64;
        keep(&files);
        let judged = catch_unwind(AssertUnwindSafe(|| verdict::judge(&stream, cut.events, files, number, beside_qemu)));
        let (kind, phase, all) = (stream.kind, stream.phase(cut.events), stream.events.len());
        assert!(judged.is_ok(), "cut {number}: recording {seed} ({kind:?}), {cut:?} of {all}, phase: {phase}");
    }
}

/// With KEEP set, what a cut has left is in that directory until the next cut: so that one can look at it.
fn keep(files: &[Vec<u8>]) {
    let Some(directory) = std::env::var_os("KEEP") else { return };
    for (number, content) in files.iter().enumerate() {
        std::fs::write(std::path::Path::new(&directory).join(format!("file{number}")), content).unwrap();
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_that_was_flushed_and_corrupts_nothing() {
    let (start, cuts) = (setting("START", 0), setting("CUTS", 300));
    let per_stream = (cuts / 60).clamp(300 / KINDS.len(), 250);
    let mut tally = Tally::default();
    for seed in start.. {
        if tally.cuts >= cuts {
            break;
        }
        replay(seed as u64, per_stream.min(cuts - tally.cuts), &mut tally);
    }
    let Tally { cuts, streams, inside, .. } = tally;
    println!("{cuts} power cuts in {streams} recordings, {inside} while tables were written back:");
    tally.phases.iter().for_each(|(phase, count)| println!("  {count:6} {phase}"));
    let Losses { dropped, torn } = tally.losses;
    println!("  {dropped} changes lost, {torn} torn; QEMU looked at {} of the images", tally.beside_qemu);
    println!("  {} cuts after flushes that failed", tally.after_failed_flushes);
    let all_kinds = streams >= KINDS.len();
    assert!(inside * 10 >= cuts || !all_kinds, "cuts while tables are written back are what counts");
    assert!(tally.after_failed_flushes > 0 || !all_kinds, "no flush has failed");
}

#[test]
fn a_recording_replayed_gives_the_disks_that_were_recorded() {
    let mut events = 0;
    for seed in 0..KINDS.len() as u64 {
        let stream = Stream::record(seed);
        let midway = &stream.midway;
        let mut disks = Disks::new(&stream.made.files);
        disks.advance(&stream.events, midway.events);
        assert!(disks.cut(Survival::Everything).0 == midway.live, "recording {seed}: what programs read");
        // The simulator forgets by chance what a failed flush has given up, and is longer at once.
        if !stream.has_lost(midway.events) {
            for (ours, stable) in disks.cut(Survival::Nothing).0.iter().zip(&midway.stable) {
                let zeroes = stable.len() - ours.len();
                assert!([&ours[..], &vec![0; zeroes]].concat() == *stable, "recording {seed}: what is stable");
            }
        }
        events += midway.events;
    }
    assert!(events > 300, "{events} events in all");
}
