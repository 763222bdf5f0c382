//! The power fails at any moment of a recorded load: of the writes that were not stable any may be lost, torn and
//! reordered, and yet every block that a guest has flushed is there, no block has another's content, and the image is
//! not corrupt.

mod choice;
mod disks;
mod guest;
mod image;
mod past;
mod phases;
mod stream;
mod verdict;

use choice::{Cut, choose};
use disks::{Disks, Losses};
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
    beside_qemu: usize,
    phases: BTreeMap<String, usize>,
    losses: Losses,
}

impl Tally {
    fn count(&mut self, stream: &Stream, cut: Cut, losses: Losses) {
        self.cuts += 1;
        self.inside += usize::from(stream.is_inside(cut.events));
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
        let beside_qemu = tally.cuts % BESIDE_QEMU == 0;
        tally.beside_qemu += usize::from(beside_qemu);
        let number = tally.cuts as u64;
        let judged = catch_unwind(AssertUnwindSafe(|| verdict::judge(&stream, cut.events, files, number, beside_qemu)));
        let (kind, phase, all) = (stream.kind, stream.phase(cut.events), stream.events.len());
        assert!(judged.is_ok(), "cut {number}: recording {seed} ({kind:?}), {cut:?} of {all}, phase: {phase}");
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_that_was_flushed_and_corrupts_nothing() {
    let (start, cuts) = (setting("START", 0), setting("CUTS", 300));
    let per_stream = (cuts / 60).clamp(25, 250);
    let mut tally = Tally::default();
    for seed in start.. {
        if tally.cuts >= cuts {
            break;
        }
        replay(seed as u64, per_stream.min(cuts - tally.cuts), &mut tally);
    }
    println!("{} power cuts in {} recordings, {} inside write-back cycles:", tally.cuts, tally.streams, tally.inside);
    tally.phases.iter().for_each(|(phase, count)| println!("  {count:6} {phase}"));
    let Losses { dropped, torn } = tally.losses;
    println!("  {dropped} changes lost, {torn} torn; QEMU looked at {} of the images", tally.beside_qemu);
    assert!(tally.inside * 10 >= tally.cuts || tally.streams < KINDS.len(), "cuts inside cycles are what counts");
}
