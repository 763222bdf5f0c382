//! The test's own record: what a guest has sent and when, and what each bitmap may say after a power cut at any event.
//!
//! A bitmap changes by what an operator does, at a point in time; the image has the new state at some moment between that
//! and the end of the command. Knows nothing of journals but how much they may say too much.

use super::disk::{Marks, Windows};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Bytes of the areas of disks as small as these.
const AREA: u64 = 1 << 20;

/// What each sector of the windows may hold at some moment.
pub type Content = Vec<Vec<u64>>;

/// What a bitmap says.
#[derive(Clone, Debug)]
pub enum Said {
    /// There is none.
    Gone,
    /// It is inconsistent.
    Lost,
    /// It records: it marks at least `must`, and every block that is not any more what it was at the point in time.
    Recording { base: Rc<Content>, must: Marks },
    /// It marks `must`, nothing that is not in `may`, and records or not.
    Exact { must: Marks, recording: bool },
}

/// A state of a bitmap in the image.
#[derive(Clone, Debug)]
pub struct Version {
    /// From which event on the image may have it, and from which on it has this or a later one.
    pub from: usize,
    pub acked: Option<usize>,
    pub said: Said,
    /// What it may mark without what is sent from request `since` on.
    may: Marks,
    since: usize,
}

/// A bitmap as it is in memory: what it marks for sure and what it may mark.
#[derive(Clone)]
struct Now {
    recording: bool,
    must: Marks,
    may: Marks,
    /// The first request that was sent when it was as it is.
    since: usize,
}

/// A bitmap's past.
pub struct Life {
    pub granularity: u64,
    now: Option<Now>,
    /// What records while a backup uses it.
    successor: Option<Now>,
    pub versions: Vec<Version>,
}

/// A change of the disk.
struct Sent {
    begin: usize,
    end: Option<usize>,
    bytes: Range<u64>,
}

/// What is done to a bitmap.
#[derive(Clone, Debug)]
pub enum Action {
    Add { granularity: u64, recording: bool },
    Remove,
    Clear,
    Enable,
    Disable,
    Merge { source: String },
    Freeze,
    Release { replace: bool },
}

/// How a bitmap is when a recording begins.
pub struct Begun {
    pub granularity: u64,
    pub said: Said,
    pub may: Marks,
}

pub struct Truth {
    pub windows: Windows,
    now: Content,
    sent: Vec<Sent>,
    pub lives: BTreeMap<String, Life>,
    /// When the journal has turned to another generation, or was begun.
    turns: Vec<usize>,
    /// From when on the journal needs none before that of such a turn.
    live: Vec<(usize, usize)>,
    /// Events between which bitmaps may be lost, because a journal cannot be written.
    pub unsafe_since: Vec<Range<usize>>,
    /// Events between which the disk gets longer, and how long it is before.
    pub growths: Vec<(Range<usize>, u64)>,
}

impl Truth {
    pub fn new(windows: Windows, content: &[u64], bitmaps: BTreeMap<String, Begun>) -> Self {
        let life = |Begun { granularity, said, may }: Begun| {
            let now = match &said {
                Said::Gone | Said::Lost => None,
                Said::Recording { must, .. } => Some((true, must.clone())),
                Said::Exact { must, recording } => Some((*recording, must.clone())),
            };
            let now = now.map(|(recording, must)| Now { recording, must, may: may.clone(), since: 0 });
            let first = Version { from: 0, acked: Some(0), said, may, since: 0 };
            Life { granularity, now, successor: None, versions: vec![first] }
        };
        Self {
            windows,
            now: content.iter().map(|value| vec![*value]).collect(),
            sent: Vec::new(),
            lives: bitmaps.into_iter().map(|(name, begun)| (name, life(begun))).collect(),
            turns: vec![0],
            live: vec![(0, 0)],
            unsafe_since: Vec::new(),
            growths: Vec::new(),
        }
    }

    /// A change is sent; its number. Each sector may be that from now on.
    pub fn begin(&mut self, bytes: Range<u64>, value: u64, event: usize) -> usize {
        for sector in self.windows.touched(&bytes) {
            self.now[sector].push(value);
        }
        let nows = self.lives.values_mut().flat_map(|life| life.now.iter_mut().chain(&mut life.successor));
        nows.filter(|now| now.recording).for_each(|now| now.may.mark(&bytes));
        self.sent.push(Sent { begin: event, end: None, bytes });
        self.sent.len() - 1
    }

    /// It has ended; `sure`: each sector is that now.
    pub fn end(&mut self, number: usize, sure: bool, event: usize) {
        self.sent[number].end = Some(event);
        let bytes = self.sent[number].bytes.clone();
        if sure {
            for sector in self.windows.touched(&bytes) {
                let last = self.now[sector].pop();
                self.now[sector] = last.into_iter().collect();
            }
        }
        let nows = self.lives.values_mut().flat_map(|life| life.now.iter_mut().chain(&mut life.successor));
        nows.filter(|now| now.recording && now.since <= number).for_each(|now| now.must.mark(&bytes));
    }

    /// Bitmaps that an operator may use, with whether each records; those in use by a backup are left out.
    pub fn usable(&self) -> Vec<(String, bool)> {
        let usable = self.lives.iter().filter(|(_, life)| life.successor.is_none());
        usable.filter_map(|(name, life)| Some((name.clone(), life.now.as_ref()?.recording))).collect()
    }

    /// The name of the one that a backup uses.
    pub fn in_use(&self) -> Option<String> {
        self.lives.iter().find(|(_, life)| life.successor.is_some()).map(|(name, _)| name.clone())
    }

    /// Those that are lost.
    pub fn lost(&self) -> Vec<String> {
        let is_lost = |life: &Life| matches!(life.versions.last().unwrap().said, Said::Lost);
        self.lives.iter().filter(|(_, life)| is_lost(life)).map(|(name, _)| name.clone()).collect()
    }

    /// A point in time: an action takes effect. Returns the version that the image is to have.
    pub fn act(&mut self, name: &str, action: &Action, begun: usize, event: usize) -> usize {
        let number = self.sent.len();
        let in_flight: Vec<Range<u64>> =
            self.sent.iter().filter(|sent| sent.end.is_none()).map(|sent| sent.bytes.clone()).collect();
        let source = match action {
            Action::Merge { source } => self.lives[source].now.clone(),
            _ => None,
        };
        let life = self.lives.entry(name.to_owned()).or_insert_with(|| Life {
            granularity: 0,
            now: None,
            successor: None,
            versions: vec![],
        });
        if life.versions.is_empty() {
            let may = Marks::new(1);
            life.versions.push(Version { from: 0, acked: Some(0), said: Said::Gone, may, since: 0 });
        }
        if let Action::Add { granularity, .. } = action {
            life.granularity = *granularity;
        }
        let granularity = life.granularity;
        let fresh = |recording| {
            let mut may = Marks::new(granularity);
            if recording {
                in_flight.iter().for_each(|bytes| may.mark(bytes));
            }
            Now { recording, must: Marks::new(granularity), may, since: number }
        };
        let from = if matches!(action, Action::Remove) { begun } else { event };
        match action {
            Action::Add { recording, .. } => life.now = Some(fresh(*recording)),
            Action::Remove => life.now = None,
            Action::Clear => life.now = life.now.take().map(|now| fresh(now.recording)),
            Action::Enable => {
                let new = fresh(true);
                if let Some(now) = life.now.as_mut().filter(|now| !now.recording) {
                    now.may.add(&new.may);
                    (now.recording, now.since) = (true, number);
                }
            }
            Action::Disable => life.now.iter_mut().for_each(|now| now.recording = false),
            Action::Merge { .. } => {
                if let (Some(now), Some(source)) = (&mut life.now, source) {
                    now.must.add(&source.must);
                    now.may.add(&source.may);
                }
            }
            Action::Freeze => {
                let recording = life.now.as_ref().is_some_and(|now| now.recording);
                life.successor = Some(fresh(recording));
            }
            Action::Release { replace } => {
                let successor = life.successor.take();
                if *replace {
                    life.now = successor;
                }
            }
        }
        let content = Rc::new(self.now.clone());
        let life = self.lives.get_mut(name).unwrap();
        life.push(from, number, &content);
        life.versions.len() - 1
    }

    /// The command has ended: the image has that version, or a later one.
    pub fn ack(&mut self, name: &str, version: usize, event: usize) {
        self.lives.get_mut(name).unwrap().versions[version].acked = Some(event);
    }

    /// The journal has another generation from now on.
    pub fn turned(&mut self, event: usize) {
        self.turns.push(event);
    }

    /// The turns so far.
    pub fn turn(&self) -> usize {
        self.turns.len() - 1
    }

    /// The journal does not need any more what was before this turn.
    pub fn stored(&mut self, turn: usize, event: usize) {
        self.live.push((event, turn));
    }

    /// Nobody writes any more, and bitmaps are being stored; to be acknowledged with [`Truth::closed`].
    pub fn closing(&mut self, event: usize) {
        for life in self.lives.values_mut() {
            let Some(now) = &life.now else { continue };
            let said = Said::Exact { must: now.must.clone(), recording: now.recording };
            life.versions.push(Version { from: event, acked: None, said, may: now.may.clone(), since: usize::MAX });
        }
    }

    /// The image is closed.
    pub fn closed(&mut self, event: usize) {
        for life in self.lives.values_mut().filter(|life| life.now.is_some()) {
            life.versions.last_mut().unwrap().acked = Some(event);
        }
        self.unsafe_since.iter_mut().filter(|range| range.end == usize::MAX).for_each(|range| range.end = event);
    }

    /// It is opened once more, and goes on.
    pub fn opening(&mut self, event: usize) {
        let (content, number) = (Rc::new(self.now.clone()), self.sent.len());
        for life in self.lives.values_mut().filter(|life| life.now.is_some()) {
            life.push(event, number, &content);
            life.versions.last_mut().unwrap().acked = Some(event);
        }
        self.turns.extend([event, event]);
        self.live.push((event, self.turns.len() - 1));
    }

    /// How much of the disk is as long as it was: what a bitmap says of the rest was stored for a shorter disk.
    pub fn settled(&self, size: u64, event: usize) -> u64 {
        let growths = self.growths.iter().filter(|(events, _)| events.contains(&event));
        growths.map(|(_, old)| *old).fold(size, u64::min)
    }

    /// What a version may mark after a power cut at this event.
    pub fn may_mark(&self, version: &Version, granularity: u64, event: usize) -> Marks {
        let mut may = Marks::new(granularity);
        may.add(&version.may);
        let sent = || self.sent.iter().filter(|sent| sent.begin <= event);
        if let Said::Recording { .. } = version.said {
            self.sent
                .iter()
                .skip(version.since)
                .filter(|sent| sent.begin <= event)
                .for_each(|sent| may.mark(&sent.bytes));
            // A generation begins with what was written to in the one before.
            let turn = self.live.iter().rfind(|(since, _)| *since <= event).map_or(0, |(_, turn)| *turn);
            let since = self.turns[turn.saturating_sub(1)];
            for sent in sent().filter(|sent| sent.end.is_none_or(|end| end >= since)) {
                may.mark(&(sent.bytes.start / AREA * AREA..sent.bytes.end.next_multiple_of(AREA)));
            }
        }
        may
    }
}

impl Life {
    fn push(&mut self, from: usize, since: usize, content: &Rc<Content>) {
        let (said, may) = match &self.now {
            None => (Said::Gone, Marks::new(1)),
            Some(Now { recording: true, must, may, .. }) => {
                (Said::Recording { base: content.clone(), must: must.clone() }, may.clone())
            }
            Some(Now { must, may, .. }) => (Said::Exact { must: must.clone(), recording: false }, may.clone()),
        };
        self.versions.push(Version { from, acked: None, said, may, since });
    }
}
