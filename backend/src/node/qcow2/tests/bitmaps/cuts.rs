//! The power fails at each moment of opening an image, storing its bitmaps and removing one, and of what is not stable
//! any may be lost or torn: every bitmap is right or in use then, and none is gone that nobody removes.

use super::made::Made;
use super::opened::{Opened, image, options};
use crate::io::sim::recorded::Event;
use crate::node::qcow2::tests::machine::Machine;
use crate::node::qcow2::tests::replay::choice::every;
use crate::node::qcow2::tests::replay::disks::Disks;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Cuts at each moment.
const AT_ONCE: usize = 10;
const GRANULARITY: u64 = 4096;

/// What bitmaps say when they are to be believed.
type Marks = BTreeMap<String, Vec<Range<u64>>>;

/// Files, what happens to them, and what the bitmaps are before and after.
struct Recording {
    step: &'static str,
    files: Vec<Vec<u8>>,
    events: Vec<Event>,
    before: Marks,
    /// When so many events have happened a guest begins to write what these do not mark.
    until: usize,
    after: Marks,
}

/// An image with two bitmaps, which mark what a guest of QEMU has written.
fn made(cluster: u32) -> Made {
    let made = Made::create(&format!("-o cluster_size={cluster}"), 1 << 20);
    ["old", "stays"].iter().for_each(|name| made.add(&format!("-g {GRANULARITY}"), name));
    made.write(0, 2 * GRANULARITY);
    made
}

fn marks(opened: &Opened) -> Marks {
    opened.list().into_iter().map(|info| (info.name.clone(), opened.marked(&info.name))).collect()
}

/// Opens the image, lets a guest write, adds a bitmap, stores all, and removes one: a recording of each step.
fn record(cluster: u32) -> Vec<Recording> {
    let made = made(cluster);
    let before = marks(&Opened::new(&made, true));
    let mut recordings = Vec::new();
    let mut machine = Machine::new(1, &[made.bytes()], 1);
    let mut files = machine.contents();
    machine.world.record();
    machine.open(options(false)).unwrap();
    let until = machine.world.recorded();
    let mut opened = Opened { machine };
    opened.write(3 * GRANULARITY, GRANULARITY);
    let events = opened.machine.world.end_record();
    recordings.push(Recording { step: "opening", files, events, before, until, after: Marks::new() });

    opened.add("new", GRANULARITY, false);
    opened.write(5 * GRANULARITY, 3 * GRANULARITY);
    let stored = marks(&opened);
    files = opened.machine.contents();
    opened.machine.world.record();
    opened.store().unwrap();
    let events = opened.machine.world.end_record();
    recordings.push(Recording {
        step: "storing",
        files,
        events,
        before: Marks::new(),
        until: 0,
        after: stored.clone(),
    });

    let mut left = stored.clone();
    left.remove("old");
    files = opened.machine.contents();
    opened.machine.world.record();
    let node = opened.node();
    opened.machine.run(move |io| async move { image(&node).remove_bitmap(&io, "old").await }).unwrap();
    let events = opened.machine.world.end_record();
    let until = events.len();
    recordings.push(Recording { step: "removing", files, events, before: stored, until, after: left });
    recordings
}

impl Recording {
    /// The bitmaps that a cut has left, those to be believed with what they say.
    fn found(content: &[u8]) -> (BTreeSet<String>, Marks) {
        let made = Made::of(content);
        let opened = Opened::new(&made, true);
        let all = opened.list().into_iter().map(|info| info.name).collect();
        let believed = opened.list().into_iter().filter(|info| !info.inconsistent);
        let said = believed.map(|info| (info.name.clone(), opened.marked(&info.name))).collect();
        (all, said)
    }

    fn judge(&self, content: &[u8], events: usize) -> Result<(), String> {
        let (all, believed) = Self::found(content);
        let stay = ["old", "stays"].into_iter().filter(|name| self.step != "removing" || *name != "old");
        if let Some(gone) = { stay }.find(|name| !all.contains(*name)) {
            return Err(format!("{gone} is gone: {all:?}"));
        }
        match believed.iter().find(|(name, said)| !self.may_say(name, said, events)) {
            Some((name, said)) => Err(format!("{name} says {said:x?}")),
            None => Ok(()),
        }
    }

    fn may_say(&self, name: &str, said: &[Range<u64>], events: usize) -> bool {
        let is = |marks: &Marks| marks.get(name).is_some_and(|marks| marks == said);
        (is(&self.before) && events <= self.until) || is(&self.after)
    }

    /// Cuts at every moment; how many.
    fn replay(&self) -> usize {
        let mut random = fastrand::Rng::with_seed(1);
        let mut disks = Disks::new(&self.files);
        let mut count = 0;
        for mut cuts in every(&self.files, &self.events, &mut random) {
            random.shuffle(&mut cuts);
            for (number, cut) in cuts.into_iter().take(AT_ONCE).enumerate() {
                disks.advance(&self.events, cut.events);
                let content = &disks.cut(cut.survival).0[0];
                let wrong = self.judge(content, cut.events).err();
                assert_eq!(wrong, None, "{}: {cut:?} of {}", self.step, self.events.len());
                if number == 0 {
                    assert_eq!(Made::of(content).check().1, 0, "corruptions: {}: {cut:?}", self.step);
                }
                count += 1;
            }
        }
        count
    }
}

#[test]
fn bitmaps_are_right_or_in_use_whatever_a_power_cut_has_lost() {
    for cluster in [512, 65536] {
        for recording in record(cluster) {
            let count = recording.replay();
            assert!(count > recording.events.len(), "{count} cuts while {}", recording.step);
        }
    }
}
