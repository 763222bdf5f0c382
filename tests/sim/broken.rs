//! A queue whose ring makes no sense stops alone.

use crate::guest::{GuestQueue, take_signal};
use crate::oracle::SECTOR;
use crate::process::Process;
use crate::request::{Action, OK, Parcel};
use crate::scenario::{Scenario, Stack};
use std::sync::mpsc::channel;
use tempfile::NamedTempFile;
use tidemark_backend::export::vhost::queue::Letter;
use tidemark_backend::io::sim::{Faults, World};
use tidemark_frontend::{Arena, GuestMemory, RegionSpec};

/// Two queues of a disk without faults.
fn scenario() -> Scenario {
    let quiet = Scenario { faults: Faults::default(), chances: [0; 5], queues: 2, queue_size: 8, ..Scenario::new(1) };
    Scenario { stack: Stack::File, without_kicks: false, waits_for_calls: false, inflight: false, ..quiet }
}

/// Steps everybody until all sleep for good.
fn settle(world: &World, process: &mut Process) {
    loop {
        let mut stepped = false;
        for served in &mut process.queues {
            if world.is_awake(served.port) || served.queue.has_work() {
                stepped = true;
                assert!(served.queue.step());
            }
        }
        if !stepped && !world.advance() {
            return;
        }
    }
}

#[test]
fn a_queue_with_a_nonsensical_ring_is_given_up_and_the_other_goes_on() {
    let (scenario, world, image) = (scenario(), World::new(1), NamedTempFile::new().unwrap());
    image.as_file().set_len(scenario.image_len()).unwrap();
    let mut process = Process::start(&world, &scenario, image.path(), None);
    world.add_disk(process.file, vec![0; usize::try_from(scenario.image_len()).unwrap()], 1);
    let specs = [RegionSpec { addr: 0, len: 1 << 20 }, RegionSpec { addr: 1 << 20, len: 1 << 20 }];
    let memory = GuestMemory::new(&specs).unwrap();
    let [mut low, mut high] = specs.map(Arena::new);
    let flags = [scenario.event_idx, scenario.indirect, false];
    let mut guests = [0, 1].map(|_| GuestQueue::new(&memory, [&mut low, &mut high], 8, flags));
    for (index, guest) in guests.iter().enumerate() {
        process.start_ring(index, &scenario, guest, &memory, 0);
    }
    let random = &mut fastrand::Rng::with_seed(1);
    let send = |guest: &mut GuestQueue, random: &mut fastrand::Rng| {
        guest.send(Parcel::new(Action::Write(0..2, 5), false), 0, random);
    };
    send(&mut guests[0], random);
    guests[0].send_nonsense();
    settle(&world, &mut process);
    assert_eq!(guests[0].collect().unwrap().len(), 1, "what came before is done");
    assert!(take_signal(&guests[0].error) && !take_signal(&guests[1].error));
    send(&mut guests[0], random);
    send(&mut guests[1], random);
    settle(&world, &mut process);
    assert_eq!(guests[0].collect().unwrap().len(), 0, "a queue that was given up does nothing");
    let ended = guests[1].collect().unwrap();
    assert!(ended.len() == 1 && ended[0].status == OK);
    assert_eq!(world.content(process.file)[..2 * SECTOR], crate::oracle::content(0, 2, 5));
    let (reply, answer) = channel();
    process.queues[0].queue.mail().send(Letter::Stop(reply));
    settle(&world, &mut process);
    assert_eq!(answer.try_recv(), Ok(1), "it is given back where it failed");
}
