//! Bitmaps that are looked at: what they mark at a point in time is merged into another, which must then be exact.

use super::plan::Draft;
use super::{Intent, Litter, Watch};
use crate::points::history::{Bits, Cut, Moment, Recording};
use crate::points::machine::{Machine, demand};
use crate::points::setting::Betrayal;
use crate::points::site::Place;
use tidemark_jobs::action::{Action, BitmapName};

/// The bitmap that is looked at.
const WATCH: &str = "watch";

impl Machine {
    /// Removes what has served its turn, if it still marks what it marked.
    pub(super) fn clean_up(&mut self, draft: &mut Draft) -> Result<(), String> {
        for Litter { place, name, bits } in std::mem::take(&mut self.operator.litter) {
            let now = self.bits(&place, &name);
            demand(now == bits, || format!("bitmap '{name}' of {} has changed, and it records nothing", place.node))?;
            if draft.bitmaps.len() < 4 && self.random.bool() {
                // Nothing that shares its fate may fail.
                self.remove_alone(place, name);
            } else {
                self.operator.litter.push(Litter { place, name, bits });
            }
        }
        Ok(())
    }

    fn remove_alone(&mut self, place: Place, name: String) {
        let remove = Action::BitmapRemove(BitmapName { node: place.node, name });
        self.ask(vec![remove], Vec::new(), false, None);
    }

    pub(super) fn plan_watch(&mut self, disk: usize, draft: &mut Draft) {
        let watch = &mut self.operator.watches[disk];
        if watch.pending {
            return;
        }
        watch.pending = true;
        let node = self.site.disks[disk].watched.node.clone();
        let name = WATCH.to_owned();
        if !watch.exists {
            let granularity = Some(watch.granularity);
            draft.bitmaps.push(Action::BitmapAdd { node, name, granularity, persistent: false, disabled: false });
            draft.intents.push(Intent::Watch(disk));
            return;
        }
        let (clear, toggle) = (self.random.bool(), self.random.u8(0..4) == 0);
        let (recording, granularity) = (watch.open.is_some(), watch.granularity << self.random.u32(0..3));
        let into = self.operator.name("look");
        draft.merge(&node, WATCH, &into, granularity);
        let bitmap = BitmapName { node, name };
        if clear {
            draft.bitmaps.push(Action::BitmapClear(bitmap.clone()));
        }
        if toggle {
            draft.bitmaps.push(if recording { Action::BitmapDisable(bitmap) } else { Action::BitmapEnable(bitmap) });
        }
        draft.intents.push(Intent::Look { disk, into, clear, toggle });
    }

    /// Several transactions at once, each of which takes what a watch marks for itself.
    pub(super) fn ask_siblings(&mut self) -> Result<(), String> {
        let free = |watch: &Watch| watch.exists && !watch.pending;
        let Some(disk) = self.operator.watches.iter().position(free) else { return Ok(()) };
        self.operator.watches[disk].pending = true;
        let (node, granularity) = (self.site.disks[disk].watched.node.clone(), self.operator.watches[disk].granularity);
        let of = self.random.usize(2..=4);
        for _ in 0..of {
            let (into, mut draft) = (self.operator.name("look"), Draft::default());
            draft.merge(&node, WATCH, &into, granularity);
            draft.bitmaps.push(Action::BitmapClear(BitmapName { node: node.clone(), name: WATCH.to_owned() }));
            self.ask(draft.bitmaps, vec![Intent::Sibling { disk, into, of }], false, None);
        }
        Ok(())
    }

    /// One of several transactions at once has found this: together they have found all there was.
    pub(super) fn look_together(&mut self, disk: usize, into: String, of: usize, cut: Cut) -> Result<(), String> {
        let place = self.site.disks[disk].watched.clone();
        let bits = self.bits(&place, &into);
        self.operator.litter.push(Litter { place, name: into, bits: bits.clone() });
        let watch = &mut self.operator.watches[disk];
        watch.siblings.push((bits, cut));
        if watch.siblings.len() < of {
            return Ok(());
        }
        let found = std::mem::take(&mut watch.siblings);
        // Nobody knows which came last.
        let last = |moment: fn(&Cut) -> Moment| found.iter().map(|(_, cut)| moment(cut)).max().unwrap_or(0);
        let cut = Cut { from: last(|cut| cut.from), to: last(|cut| cut.to) };
        let mut recordings = std::mem::take(&mut watch.recordings);
        let now = watch.open.map(|from| Recording { from, to: cut });
        recordings.extend(now);
        let all = found.into_iter().map(|(bits, _)| bits).reduce(|one, two| one.union(&two)).unwrap();
        let checked = self.history.check_marks(disk, &all, &recordings);
        checked.map_err(|why| format!("{of} transactions at once: {why}"))?;
        self.report.bitmaps += 1;
        (watch.pending, watch.open) = (false, now.map(|_| cut));
        self.judge_with_last(disk, all, now)
    }

    pub(super) fn begin_watch(&mut self, disk: usize, cut: Cut) {
        let watch = &mut self.operator.watches[disk];
        (watch.exists, watch.pending, watch.open) = (true, false, Some(cut));
    }

    /// The watch of a disk was looked at.
    pub(super) fn look(
        &mut self,
        disk: usize,
        into: String,
        [clear, toggle]: [bool; 2],
        cut: Cut,
    ) -> Result<(), String> {
        let place = self.site.disks[disk].watched.clone();
        let bits = self.bits(&place, &into);
        let judged = if self.is_betrayed(Betrayal::LostMark) { self.without_one(bits.clone()) } else { bits.clone() };
        let watch = &mut self.operator.watches[disk];
        watch.pending = false;
        let now = watch.open.map(|from| Recording { from, to: cut });
        let mut recordings = watch.recordings.clone();
        recordings.extend(now);
        self.history.check_marks(disk, &judged, &recordings).map_err(|why| format!("bitmap '{into}': {why}"))?;
        self.report.bitmaps += 1;
        self.judge_with_last(disk, judged, now)?;
        let watch = &mut self.operator.watches[disk];
        if toggle {
            watch.recordings.extend(now);
            watch.open = if watch.open.is_some() { None } else { Some(cut) };
        }
        if clear {
            watch.recordings.clear();
            watch.open = watch.open.map(|_| cut);
        }
        self.operator.litter.push(Litter { place, name: into, bits });
        Ok(())
    }

    /// What was under way when one look ended a time of recording and began the next must be in one of the two.
    fn judge_with_last(&mut self, disk: usize, bits: Bits, now: Option<Recording>) -> Result<(), String> {
        let last = self.operator.watches[disk].last.take();
        if let (Some((before, last)), Some(now)) = (last, now)
            && last.to == now.from
        {
            let (whole, bits) = (Recording { from: last.from, to: now.to }, before.union(&bits));
            self.history.check_marked(disk, &bits, &[whole]).map_err(|why| format!("two looks: {why}"))?;
        }
        self.operator.watches[disk].last = now.map(|now| (bits, now));
        Ok(())
    }

    /// The chain of a disk was looked at.
    pub(super) fn look_at_chain(&mut self, disk: usize, into: String, cut: Cut) -> Result<(), String> {
        let place = self.site.disks[disk].source.clone();
        let bits = self.bits(&place, &into);
        let chain = &self.operator.chains[disk];
        if let Some(from) = chain.since {
            let recordings = [Recording { from, to: cut }];
            let checked = match chain.loose {
                true => self.history.check_marked(disk, &bits, &recordings),
                false => self.history.check_marks(disk, &bits, &recordings),
            };
            checked.map_err(|why| format!("bitmap '{into}' of the chain: {why}"))?;
            self.report.bitmaps += 1;
        }
        self.operator.litter.push(Litter { place, name: into, bits });
        Ok(())
    }

    fn bits(&self, place: &Place, name: &str) -> Bits {
        let node = self.site.graph.find(&place.node).unwrap();
        let bitmap = node.points().tracking().content(name).unwrap();
        let granularity = bitmap.granularity().bytes();
        let marked = (0..bitmap.len().div_ceil(granularity)).map(|at| bitmap.is_marked(at * granularity)).collect();
        Bits { granularity, shift: place.shift, marked }
    }

    fn without_one(&mut self, mut bits: Bits) -> Bits {
        let marked: Vec<usize> = (0..bits.marked.len()).filter(|at| bits.marked[*at]).collect();
        if !marked.is_empty() {
            bits.marked[marked[self.random.usize(0..marked.len())]] = false;
        }
        bits
    }
}
