//! A kill between any two stores must lose no request and do none twice.
//!
//! A model guest and a model daemon work through requests over one region. The region's bytes are kept by a cell
//! store that remembers how they looked after every single store; so does the ring's `used.idx`, the only other
//! thing that outlives the daemon. From each of these moments a new daemon starts.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::super::memory::MemoryFault;
use super::tracker::{Cells, DESC_LEN, HEADER_LEN};
use super::*;

const SIZE: u16 = 8;

/// What survives a kill, and how it looked after each store.
#[derive(Debug, Default)]
struct World {
    region: Vec<u8>,
    used: Vec<u16>,
    avail: Vec<u16>,
    moments: Vec<Moment>,
}

#[derive(Debug, Clone)]
struct Moment {
    region: Vec<u8>,
    /// Heads by free-running index: what the driver made available, and what it was told is done.
    avail: Vec<u16>,
    used: Vec<u16>,
}

impl World {
    fn new() -> World {
        World { region: vec![0; HEADER_LEN + usize::from(SIZE) * DESC_LEN], ..World::default() }
    }

    fn remember(&mut self) {
        let (region, avail, used) = (self.region.clone(), self.avail.clone(), self.used.clone());
        self.moments.push(Moment { region, avail, used });
    }

    fn used_idx(&self) -> u16 {
        u16::try_from(self.used.len()).unwrap()
    }
}

#[derive(Debug, Clone)]
struct Recorded(Rc<RefCell<World>>);

impl Recorded {
    fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.borrow().region[offset..offset + N].try_into().unwrap()
    }

    fn set(&self, offset: usize, bytes: &[u8]) {
        let mut world = self.0.borrow_mut();
        world.region[offset..offset + bytes.len()].copy_from_slice(bytes);
        world.remember();
    }
}

impl Cells for Recorded {
    fn get_u8(&self, offset: usize) -> u8 {
        self.get::<1>(offset)[0]
    }
    fn get_u16(&self, offset: usize) -> u16 {
        u16::from_ne_bytes(self.get(offset))
    }
    fn get_u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.get(offset))
    }
    fn set_u8(&mut self, offset: usize, value: u8) {
        self.set(offset, &[value]);
    }
    fn set_u16(&mut self, offset: usize, value: u16) {
        self.set(offset, &value.to_ne_bytes());
    }
    fn set_u64(&mut self, offset: usize, value: u64) {
        self.set(offset, &value.to_ne_bytes());
    }
}

/// A daemon on a world: recovers, then works.
struct Daemon {
    world: Rc<RefCell<World>>,
    tracker: Tracker<Recorded>,
    next_avail: usize,
    /// Fetched and not completed, in the order of fetching.
    busy: Vec<u16>,
}

impl Daemon {
    fn start(world: &Rc<RefCell<World>>) -> Daemon {
        let mut tracker = Tracker::new(Recorded(world.clone()), SIZE);
        let used_idx = world.borrow().used_idx();
        let busy = match tracker.recover(SIZE, used_idx).unwrap() {
            Recovery::Fresh => Vec::new(),
            Recovery::Resume(heads) => heads,
        };
        Daemon { world: world.clone(), tracker, next_avail: usize::from(used_idx) + busy.len(), busy }
    }

    fn fetch_all(&mut self) {
        while let Some(head) = { self.world.borrow().avail.get(self.next_avail).copied() } {
            self.next_avail += 1;
            self.tracker.mark(head);
            self.busy.push(head);
        }
    }

    fn complete(&mut self, heads: &[u16]) {
        self.busy.retain(|head| !heads.contains(head));
        let world = self.world.clone();
        let used_idx = world.borrow().used_idx().wrapping_add(u16::try_from(heads.len()).unwrap());
        self.tracker.publish(heads, used_idx, || {
            world.borrow_mut().used.extend(heads);
            world.borrow_mut().remember();
        });
    }
}

/// The driver makes `heads` available.
fn offer(world: &Rc<RefCell<World>>, heads: &[u16]) {
    for head in heads {
        let mut world = world.borrow_mut();
        world.avail.push(*head);
        world.remember();
    }
}

/// Batches out of order, heads used again, entries that stay in flight for long.
fn work() -> Vec<Moment> {
    let world = Rc::new(RefCell::new(World::new()));
    let mut daemon = Daemon::start(&world);
    offer(&world, &[3, 0, 5, 1]);
    daemon.fetch_all();
    daemon.complete(&[5]);
    daemon.complete(&[1, 3]);
    offer(&world, &[5, 7, 3]);
    daemon.fetch_all();
    daemon.complete(&[3, 5, 7]);
    offer(&world, &[7, 1, 5, 2, 6]);
    daemon.fetch_all();
    daemon.complete(&[2, 7]);
    daemon.complete(&[0]);
    drop(daemon);
    std::mem::take(&mut world.borrow_mut().moments)
}

fn world_at(moment: &Moment) -> Rc<RefCell<World>> {
    let Moment { region, avail, used } = moment.clone();
    Rc::new(RefCell::new(World { region, avail, used, moments: Vec::new() }))
}

/// What the driver waits for: heads it made available more often than it was told they are done.
fn waiting(moment: &Moment) -> BTreeSet<u16> {
    let count = |list: &[u16], head| list.iter().filter(|other| **other == head).count();
    (0..SIZE).filter(|head| count(&moment.avail, *head) > count(&moment.used, *head)).collect()
}

#[test]
fn kill_at_any_store_leaves_every_request_to_be_done_exactly_once() {
    let moments = work();
    assert!(moments.len() > 60, "only {} moments", moments.len());
    for (nth, moment) in moments.iter().enumerate() {
        let world = world_at(moment);
        let mut daemon = Daemon::start(&world);
        daemon.fetch_all();
        let expected = waiting(moment);
        assert_eq!(daemon.busy.iter().copied().collect::<BTreeSet<_>>(), expected, "after store {nth}");
        assert_eq!(daemon.busy.len(), expected.len(), "after store {nth}: done twice");

        // It can also finish: nothing is in flight then, for whoever comes next.
        let all = daemon.busy.clone();
        daemon.complete(&all);
        assert_eq!(Daemon::start(&world).busy, [0; 0], "after store {nth}");
    }
}

#[test]
fn head_offered_again_before_the_daemon_came_back_is_done_once_more() {
    for (nth, moment) in work().iter().enumerate() {
        let mut expected = waiting(moment);
        let Some(head) = (0..SIZE).find(|head| moment.used.contains(head) && !expected.contains(head)) else {
            continue;
        };
        let world = world_at(moment);
        offer(&world, &[head]);
        expected.insert(head);
        let mut daemon = Daemon::start(&world);
        daemon.fetch_all();
        assert_eq!(daemon.busy.iter().copied().collect::<BTreeSet<_>>(), expected, "after store {nth}");
        assert_eq!(daemon.busy.len(), expected.len(), "after store {nth}: done twice");
    }
}

#[test]
fn kill_during_recovery_changes_nothing() {
    for (nth, moment) in work().iter().enumerate() {
        let world = world_at(moment);
        let expected = Daemon::start(&world).busy;
        let during = std::mem::take(&mut world.borrow_mut().moments);
        for again in during {
            assert_eq!(Daemon::start(&world_at(&again)).busy, expected, "after store {nth}");
        }
    }
}

#[test]
fn requests_are_resubmitted_in_the_order_they_were_fetched_in() {
    let world = Rc::new(RefCell::new(World::new()));
    let mut first = Daemon::start(&world);
    offer(&world, &[6, 2, 4, 0]);
    first.fetch_all();
    first.complete(&[2]);
    let mut second = Daemon::start(&world);
    assert_eq!(second.busy, [6, 4, 0]);
    offer(&world, &[2, 1]);
    second.fetch_all();
    second.complete(&[4]);
    assert_eq!(Daemon::start(&world).busy, [6, 0, 2, 1]);
}

#[test]
fn region_of_a_ring_that_was_set_up_anew_starts_fresh() {
    let world = Rc::new(RefCell::new(World::new()));
    let mut daemon = Daemon::start(&world);
    for _ in 0..40 {
        offer(&world, &[1]);
        daemon.fetch_all();
        daemon.complete(&[1]);
    }
    let mut tracker = Tracker::new(Recorded(world), SIZE);
    assert_eq!(tracker.recover(SIZE, 0).unwrap(), Recovery::Fresh);
    assert_eq!(tracker.recover(SIZE, 0).unwrap(), Recovery::Resume(vec![]));
}

#[test]
fn hostile_region_is_refused_or_bounded() {
    let region = |bytes: &[(usize, u8)]| {
        let mut world = World::new();
        for (offset, value) in bytes {
            world.region[*offset] = *value;
        }
        Tracker::new(Recorded(Rc::new(RefCell::new(world))), SIZE)
    };
    let good = [(8, 1), (10, 8)];
    assert_eq!(region(&good).recover(SIZE, 0).unwrap(), Recovery::Resume(vec![]));
    assert!(matches!(region(&[(8, 2), (10, 8)]).recover(SIZE, 0), Err(InflightError::Unknown { version: 2, .. })));
    assert!(matches!(region(&[(8, 1), (10, 9)]).recover(SIZE, 0), Err(InflightError::Unknown { desc_num: 9, .. })));
    assert!(region(&good).recover(SIZE * 2, 0).is_err());
    assert!(region(&[]).recover(SIZE * 2, 0).is_err());
    // A list that leads out of the region, and one that loops.
    let outside = [(8, 1), (10, 8), (12, 200), (16, 1)];
    assert_eq!(region(&outside).recover(SIZE, 5).unwrap(), Recovery::Resume(vec![0]));
    let loops = [(8, 1), (10, 8), (16, 1), (32, 1)];
    assert_eq!(region(&loops).recover(SIZE, 5).unwrap(), Recovery::Resume(vec![1]));
    let beyond = [(8, 1), (10, 8), (16 + 7 * 16, 1)];
    assert!(matches!(region(&beyond).recover(4, 0), Err(InflightError::BeyondQueue(7))));
}

/// docs/interop/vhost-user.rst, `QueueRegionSplit` and `DescStateSplit`.
#[test]
fn mapped_area_has_the_documented_layout_and_survives_its_maker() {
    use std::os::unix::fs::FileExt;
    let fault = MemoryFault::new().unwrap();
    let (area, file) = InflightArea::create(3, 8, &fault).unwrap();
    let len = InflightArea::len_for(3, 8);
    assert_eq!((len, file.metadata().unwrap().len()), (3 * 192 + 64, len));
    assert!(file.set_len(1).is_err(), "nobody may take the memory away");
    let mut region = area.region(1).unwrap();
    assert_eq!(region.recover(8, 65535).unwrap(), Recovery::Fresh);
    for head in [2, 7] {
        region.mark(head);
    }
    let mut bytes = vec![0; 192];
    region.publish(&[7], 0, || file.read_exact_at(&mut bytes, 192).unwrap());
    let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    assert_eq!(bytes[..8], [0; 8], "features");
    assert_eq!([number(8), number(10), number(12), number(14)], [1, 8, 7, 65535]);
    let (entry2, entry7) = (&bytes[48..64], &bytes[128..144]);
    assert_eq!((entry2[0], entry2[8]), (1, 0));
    assert_eq!((entry7[0], entry7[8]), (1, 1));
    file.read_exact_at(&mut bytes, 192).unwrap();
    assert_eq!((bytes[128], bytes[14]), (0, 0), "marked no more, and used_idx is the new one");
    drop((region, area));

    let area = InflightArea::map(&file, 0, len, 3, 8, &fault).unwrap();
    assert_eq!(area.region(1).unwrap().recover(8, 0).unwrap(), Recovery::Resume(vec![2]));
    assert!(matches!(area.region(3), Err(InflightError::NoRegion(3))));
}

#[test]
fn area_that_is_too_small_is_refused() {
    let fault = MemoryFault::new().unwrap();
    let (_, file) = InflightArea::create(2, 8, &fault).unwrap();
    let map = |offset, size, queues, queue_size| {
        InflightArea::map(&file, offset, size, queues, queue_size, &fault).map(|_| ())
    };
    let len = InflightArea::len_for(2, 8);
    assert!(map(0, len, 2, 8).is_ok());
    assert!(map(64, len - 64, 1, 8).is_ok());
    assert!(map(0, 2 * 192, 2, 8).is_ok(), "without room for a note");
    assert!(matches!(map(0, 2 * 192 - 1, 2, 8), Err(InflightError::BadLayout { .. })));
    assert!(matches!(map(0, len, 2, 16), Err(InflightError::BadLayout { .. })));
    assert!(matches!(map(8, len, 1, 8), Err(InflightError::BadLayout { .. })));
    assert!(matches!(map(0, len, 0, 8), Err(InflightError::BadLayout { .. })));
    assert!(matches!(map(64, len, 2, 8), Err(InflightError::Map(_))), "the file is shorter");
    assert!(matches!(map(u64::MAX - 63, len, 2, 8), Err(InflightError::Map(_))));
}

#[test]
fn next_process_learns_what_the_driver_chose_for_its_cache() {
    let fault = MemoryFault::new().unwrap();
    let (area, file) = InflightArea::create(2, 8, &fault).unwrap();
    let reopened = |size| InflightArea::map(&file, 0, size, 2, 8, &fault).unwrap().driver_wce();
    let len = InflightArea::len_for(2, 8);
    assert_eq!(reopened(len), None);
    for wce in [false, true] {
        area.set_driver_wce(wce);
        assert_eq!(reopened(len), Some(wce));
    }
    assert_eq!(reopened(2 * 192), None, "an area of another back-end has no room for it");
}
