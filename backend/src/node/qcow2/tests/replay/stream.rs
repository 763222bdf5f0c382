//! A recording: an image, what a guest did with it, and what the disks saw of that.

use super::guest::Guest;
use super::image::{KINDS, Kind, Made, make};
use super::past::Past;
use super::phases::{OUTSIDE, Phases, listen};
use super::snapshots::Points;
use crate::io::FileId;
use crate::io::sim::recorded::Event;

/// What was recorded.
pub struct Stream {
    pub seed: u64,
    pub kind: Kind,
    pub made: Made,
    pub events: Vec<Event>,
    pub phases: Phases,
    pub past: Past,
    /// What its snapshots may show, and when they are there.
    pub points: Points,
    pub midway: Midway,
}

/// The disks as the simulator has them at some moment of the recording.
pub struct Midway {
    pub events: usize,
    /// What programs read.
    pub live: Vec<Vec<u8>>,
    /// What the worst power cut leaves.
    pub stable: Vec<Vec<u8>>,
}

impl Midway {
    fn of(guest: &Guest) -> Self {
        let world = &guest.machine.world;
        let live = guest.machine.contents();
        let files = (0..).map(FileId).take(live.len());
        let stable = files.map(|file| world.stable_content(file)).collect();
        Self { events: world.recorded(), live, stable }
    }
}

impl Stream {
    /// The recording with this number: each kind of image has its turn.
    pub fn record(seed: u64) -> Self {
        let kind = KINDS[usize::try_from(seed % KINDS.len() as u64).unwrap()];
        let mut random = fastrand::Rng::with_seed(seed);
        let made = make(kind, &mut random);
        let mut guest = Guest::new(seed, kind, &made, 0);
        let world = guest.machine.world.clone();
        world.record();
        let mut midway = Midway::of(&guest);
        let (faults, table_faults) = guest.begin_faults();
        let storage = world.clone();
        let tell = move |phase: &str| match kind {
            Kind::TableErrors if phase == "L1 table" => storage.set_faults(table_faults),
            Kind::TableErrors => storage.set_faults(faults),
            _ => {}
        };
        let phases = listen(&world, tell, || {
            let count = match kind {
                Kind::ManyTables | Kind::TableErrors => 120,
                Kind::Slow => 200,
                _ => 70,
            };
            guest.load(count / 2);
            midway = Midway::of(&guest);
            if kind == Kind::Resized {
                guest.grow();
            }
            if matches!(kind, Kind::Snapshots | Kind::SnapshotErrors) {
                guest.change_snapshots();
            }
            guest.load(count / 2);
            guest.verify();
            guest.close();
        });
        let events = world.end_record();
        Self { seed, kind, made, events, phases, past: guest.past, points: guest.points, midway }
    }

    /// Whether flushes of the first so many events have failed.
    pub fn has_lost(&self, events: usize) -> bool {
        self.first_lost() < events
    }

    /// The number of the first event by which something is lost; past the end if there is none.
    pub fn first_lost(&self) -> usize {
        let lost = self.events.iter().position(|event| matches!(event, Event::GivenUp { .. }));
        lost.unwrap_or(self.events.len())
    }

    /// What the image was doing when the first so many events had happened.
    pub fn phase(&self, events: usize) -> &str {
        self.phases.at(events)
    }

    /// Whether it was writing back what is in memory.
    pub fn is_inside(&self, events: usize) -> bool {
        self.phase(events) != OUTSIDE
    }
}
