//! A disk's whole past as plain lists: its content at every point in time and all that was written. What is said of
//! changes since a point in time is held against that: it has to have every sector that is another one now, may have
//! what a bitmap that begins there marks, and nobody may know more, or less, than bitmaps have seen.

use super::disk::Disk;
use super::naive::Naive;
use crate::bitmaps::{ChangeId, Changed, NotKnown, Tracked};
use std::collections::BTreeSet;
use std::ops::Range;

const SECTOR: u64 = 512;

/// The generations of which a bitmap has all, one by one.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    own: BTreeSet<u64>,
    successor: BTreeSet<u64>,
    /// The point in time at which it was empty, if all it marks was written since then.
    begun: Option<u64>,
    frozen: u64,
}

impl Knowledge {
    pub fn from(generation: u64) -> Self {
        Self { begun: Some(generation), ..Self::default() }
    }

    pub fn merge(&mut self, same_disk: bool, other: &Self) {
        self.begun = None;
        self.own.extend(other.own.iter().filter(|_| same_disk));
    }

    pub fn freeze(&mut self, generation: u64) {
        self.frozen = generation;
    }

    pub fn release(&mut self, used_up: bool, left: bool) {
        let successor = std::mem::take(&mut self.successor);
        if used_up {
            self.own.clear();
            self.begun = (!left).then_some(self.frozen);
        }
        self.own.extend(successor);
    }

    pub fn begin(&mut self, generation: u64, own: bool, successor: bool) {
        self.own.extend(own.then_some(generation));
        self.successor.extend(successor.then_some(generation));
    }

    fn has(&self, generation: u64) -> bool {
        self.own.contains(&generation) || self.successor.contains(&generation)
    }

    fn since(&self, now: u64) -> Option<u64> {
        (1..=now).rev().take_while(|generation| self.has(*generation)).last()
    }
}

/// What happened to a disk.
#[derive(Clone, Debug)]
pub struct Past {
    len: u64,
    /// What is in each sector: the number of the write.
    content: Vec<usize>,
    /// The same at each point in time.
    points: Vec<Vec<usize>>,
    names: Vec<Option<ChangeId>>,
    writes: usize,
    /// Lengths, each with the generation in which the disk got it or had it last.
    lens: Vec<(u64, u64)>,
    /// The point in time of the last merge.
    merged: u64,
}

fn sectors(len: u64) -> usize {
    usize::try_from(len.div_ceil(SECTOR)).unwrap()
}

impl Past {
    pub fn new(len: u64) -> Self {
        let content = vec![0; sectors(len)];
        Self { len, points: vec![content.clone()], content, names: vec![None], writes: 0, lens: Vec::new(), merged: 0 }
    }

    fn now(&self) -> u64 {
        self.points.len() as u64 - 1
    }

    /// The point in time that is to come.
    pub fn next(&self) -> u64 {
        self.now() + 1
    }

    pub fn begin(&mut self) -> u64 {
        self.points.push(self.content.clone());
        self.names.push(None);
        self.now()
    }

    /// The last point in time has this name.
    pub fn note_name(&mut self, name: Option<ChangeId>) {
        let last = self.names.last_mut().unwrap();
        assert!(last.is_none() || *last == name, "a point in time has another name now");
        *last = name;
        let others = &self.names[..self.names.len() - 1];
        assert!(name.is_none() || !others.contains(&name), "two points in time have one name");
    }

    pub fn note_merge(&mut self) {
        self.merged = self.next();
    }

    pub fn write(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len);
        self.writes += 1;
        if offset < end {
            self.content[usize::try_from(offset / SECTOR).unwrap()..sectors(end)].fill(self.writes);
        }
    }

    pub fn resize(&mut self, len: u64) {
        let now = self.now();
        self.lens.extend([(now, self.len), (now, len)]);
        self.len = len;
        self.content.resize(sectors(len), 0);
    }

    /// Sectors that are not what they were.
    fn changed_since(&self, generation: u64) -> impl Iterator<Item = usize> {
        let then = &self.points[usize::try_from(generation).unwrap()];
        let now = self.content.iter().enumerate();
        now.filter(|(at, content)| then.get(*at) != Some(content)).map(|(at, _)| at)
    }

    fn shortest_since(&self, generation: u64) -> u64 {
        let lens = self.lens.iter().filter(|(at, _)| *at >= generation).map(|(_, len)| *len);
        lens.fold(self.len, u64::min)
    }
}

/// All pages, of this many extents each.
fn pages(changed: &Changed, limit: usize) -> Vec<Range<u64>> {
    let (mut all, mut next): (Vec<Range<u64>>, _) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let page = changed.page(from, limit);
        assert!(page.extents.len() <= limit);
        assert!(page.next.is_none_or(|next| next > from), "it does not go on");
        all.extend(page.extents);
        next = page.next;
    }
    assert!(all.iter().all(|extent| !extent.is_empty()));
    assert!(all.windows(2).all(|two| two[0].end < two[1].start), "in order and apart: {all:?}");
    all
}

/// What the disk says of changes is what its past says.
pub fn check(disk: &Disk, naive: &Naive, number: usize, probe: usize) {
    let past = &naive.pasts[number];
    let now = past.now();
    for info in disk.tracking().list() {
        let named = &naive.bitmaps[&(number, info.name.clone())];
        let since = named.knowledge.since(now).map(|since| past.names[usize::try_from(since).unwrap()].unwrap());
        assert_eq!(info.since, since, "{}", info.name);
    }
    if now > 0 {
        check_since(disk, naive, number, 1 + probe as u64 % now, 1 + probe % 5);
        check_since(disk, naive, number, now, usize::MAX);
    }
}

fn check_since(disk: &Disk, naive: &Naive, number: usize, generation: u64, limit: usize) {
    let past = &naive.pasts[number];
    let id = past.names[usize::try_from(generation).unwrap()].unwrap();
    let bitmaps = || naive.bitmaps.iter().filter(|(key, _)| key.0 == number).map(|(_, named)| named);
    let is_known = |generation| bitmaps().any(|named| named.knowledge.has(generation));
    let answer = disk.tracking().changed_since(id, past.len);
    let Ok(changed) = answer else {
        assert!(matches!(answer, Err(NotKnown::Gap { .. })), "{answer:?}");
        assert!(!(generation..=past.now()).all(is_known), "bitmaps have all since {generation} and nobody says so");
        return;
    };
    assert!((generation..=past.now()).all(is_known), "nobody has all since {generation}");
    assert_eq!(changed.point, past.names.last().copied().flatten());
    let told = pages(&changed, limit);
    assert!(told.last().is_none_or(|last| last.end <= past.len));
    let has = |offset: u64, end: u64| told.iter().any(|extent| extent.start <= offset && end <= extent.end);
    for sector in past.changed_since(generation) {
        let offset = sector as u64 * SECTOR;
        assert!(has(offset, (offset + SECTOR).min(past.len)), "sector {sector} since {generation}: {told:?}");
    }
    let shortest = past.shortest_since(generation);
    let exact = |named: &&super::naive::Named| named.knowledge.begun == Some(generation);
    let exact = bitmaps().filter(exact).filter(|named| named.knowledge.since(past.now()) == Some(generation));
    for named in exact.filter(|_| past.merged < generation) {
        let block = named.marks.block;
        let mut marked = named.marks.offsets();
        marked.extend(named.successor.iter().flat_map(|(marks, _)| marks.offsets()));
        let more = told.iter().flat_map(|extent| extent.start / SECTOR..extent.end.div_ceil(SECTOR));
        for offset in more.map(|sector| sector * SECTOR) {
            let is_marked = marked.contains(&(offset - offset % block));
            assert!(is_marked || offset + SECTOR > shortest, "{offset} has not changed since {generation}: {told:?}");
        }
    }
}
