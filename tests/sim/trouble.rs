//! Single rings in trouble: one that makes no sense stops alone, one that was recovered is given back whole.

use crate::guest::{GuestQueue, take_signal};
use crate::oracle::SECTOR;
use crate::process::Process;
use crate::request::{Action, OK, Parcel};
use crate::scenario::{Scenario, Stack};
use std::fs::File;
use std::sync::mpsc::channel;
use tempfile::NamedTempFile;
use tidemark_backend::export::vhost::inflight::InflightArea;
use tidemark_backend::export::vhost::memory::MemoryFault;
use tidemark_backend::export::vhost::queue::Letter;
use tidemark_backend::io::sim::{Faults, World};
use tidemark_frontend::{Arena, GuestMemory, RegionSpec};

/// Two queues of a disk without faults, on which nothing happens by chance.
struct Bench {
    scenario: Scenario,
    world: World,
    image: NamedTempFile,
    memory: GuestMemory,
    guests: [GuestQueue; 2],
    area: File,
    random: fastrand::Rng,
}

impl Bench {
    fn new() -> (Self, Process) {
        let quiet =
            Scenario { faults: Faults::default(), chances: [0; 5], queues: 2, queue_size: 8, ..Scenario::new(1) };
        let quiet = Scenario { stack: Stack::File, without_kicks: false, waits_for_calls: false, ..quiet };
        let scenario = Scenario { inflight: true, write_cache: true, capacity: 64, ..quiet };
        let (world, image) = (World::new(1), NamedTempFile::new().unwrap());
        world.set_faults(Faults { long_delay: 1024, ..Faults::default() });
        image.as_file().set_len(scenario.image_len()).unwrap();
        let specs = [RegionSpec { addr: 0, len: 1 << 20 }, RegionSpec { addr: 1 << 20, len: 1 << 20 }];
        let memory = GuestMemory::new(&specs).unwrap();
        let [mut low, mut high] = specs.map(Arena::new);
        let flags = [scenario.event_idx, scenario.indirect, false];
        let guests = [0, 1].map(|_| GuestQueue::new(&memory, [&mut low, &mut high], 8, flags));
        let area = InflightArea::create(2, 8, &MemoryFault::new().unwrap()).unwrap().1;
        let bench = Self { scenario, world, image, memory, guests, area, random: fastrand::Rng::with_seed(1) };
        let process = bench.start();
        let content = vec![0; usize::try_from(bench.scenario.image_len()).unwrap()];
        bench.world.add_disk(process.file, content, 1);
        (bench, process)
    }

    fn start(&self) -> Process {
        let mut process = Process::start(&self.world, &self.scenario, self.image.path(), Some(&self.area));
        for (index, guest) in self.guests.iter().enumerate() {
            process.start_ring(index, &self.scenario, guest, &self.memory, guest.used_idx());
        }
        process
    }

    fn write(&mut self, queue: usize) {
        self.guests[queue].send(Parcel::new(Action::Write(0..2, 5), false), 0, &mut self.random);
    }

    /// Steps everybody until all sleep for good.
    fn settle(&self, process: &mut Process) {
        while self.step(process) || self.world.advance() {}
    }

    /// Lets everybody who is awake take a step; false if nobody is.
    fn step(&self, process: &mut Process) -> bool {
        let mut stepped = false;
        for served in &mut process.queues {
            if self.world.is_awake(served.port) || served.queue.has_work() {
                stepped = true;
                assert!(served.queue.step());
            }
        }
        stepped
    }
}

#[test]
fn a_queue_with_a_nonsensical_ring_is_given_up_and_the_other_goes_on() {
    let (mut bench, mut process) = Bench::new();
    bench.write(0);
    bench.guests[0].send_nonsense();
    bench.settle(&mut process);
    assert_eq!(bench.guests[0].collect().unwrap().len(), 1, "what came before is done");
    assert!(take_signal(&bench.guests[0].error) && !take_signal(&bench.guests[1].error));
    bench.write(0);
    bench.write(1);
    bench.settle(&mut process);
    assert_eq!(bench.guests[0].collect().unwrap().len(), 0, "a queue that was given up does nothing");
    let ended = bench.guests[1].collect().unwrap();
    assert!(ended.len() == 1 && ended[0].status == OK);
    assert_eq!(bench.world.content(process.file)[..2 * SECTOR], crate::oracle::content(0, 2, 5));
    let (reply, answer) = channel();
    process.queues[0].queue.mail().send(Letter::Stop(reply));
    bench.settle(&mut process);
    assert_eq!(answer.try_recv(), Ok(1), "it is given back where it failed");
}

#[test]
fn a_ring_that_is_stopped_right_after_a_crash_is_given_back_with_nothing_undone() {
    for enabled in [true, false] {
        let (mut bench, mut process) = Bench::new();
        bench.write(0);
        bench.write(0);
        while bench.world.in_flight(process.queues[0].port) < 2 {
            assert!(bench.step(&mut process));
        }
        drop(process);
        let mut process = bench.start();
        let (reply, answer) = channel();
        let mail = process.queues[0].queue.mail();
        mail.send(Letter::Enabled(enabled));
        mail.send(Letter::Stop(reply));
        bench.settle(&mut process);
        assert_eq!(answer.try_recv(), Ok(2), "both had been fetched");
        assert_eq!(bench.guests[0].collect().unwrap().len(), 2, "enabled: {enabled}");
    }
}
