//! Guest memory: tables in any order, regions plugged and unplugged under load, memory that is taken away.

use tidemark_frontend::{Arena, DeviceOptions, GuestBuf, MemoryMessages, RegionSpec, Request, Status};

use super::daemon::{DISK, Daemon, FILE};
use super::guest::Guest;
use super::load::{BLOCK, Load, finish};
use super::messages::Rude;
use crate::cli::process::wait_until;

const MIB: u64 = 1 << 20;

fn region(mib: u64, len: u64) -> RegionSpec {
    RegionSpec { addr: mib * MIB, len: len * MIB }
}

#[test]
fn regions_may_be_announced_in_any_order() {
    let daemon = Daemon::with_node(FILE, "");
    let (low, middle, high) = (region(0, 8), region(8, 8), region(1 << 20, 8));
    for memory in [[low, middle, high], [high, low, middle], [middle, high, low], [high, middle, low]] {
        for memory_messages in [MemoryMessages::Table, MemoryMessages::Slots] {
            let options = DeviceOptions { memory: memory.to_vec(), memory_messages, ..DeviceOptions::default() };
            let mut guest = Guest::with(&daemon, options);
            for (spec, byte) in memory.into_iter().zip(1u8..) {
                let data = [GuestBuf { addr: spec.addr + spec.len - 8192, len: 4096 }];
                guest.device.memory().fill(data[0], byte).unwrap();
                assert_eq!(guest.run(&Request::Write { offset: 0, data: &data }), Status::Ok, "{memory:?}");
                assert_eq!(guest.read(0, 4096), [byte; 4096], "{memory:?}");
            }
        }
    }
}

#[test]
fn one_request_may_use_all_regions_and_cross_from_one_to_its_neighbour() {
    let daemon = Daemon::with_node(FILE, "");
    let memory = vec![region(0, 8), region(64, 1), region(65, 1)];
    let mut guest = Guest::with(&daemon, DeviceOptions { memory, ..DeviceOptions::default() });
    let halves = [GuestBuf { addr: 65 * MIB - 2048, len: 2048 }, GuestBuf { addr: 65 * MIB, len: 2048 }];
    guest.device.memory().fill(halves[0], 1).unwrap();
    guest.device.memory().fill(halves[1], 2).unwrap();
    let first = guest.alloc(512);
    let data = [first, GuestBuf { addr: 65 * MIB - 2048, len: 4096 }];
    assert_eq!(guest.run(&Request::Write { offset: 0, data: &data }), Status::Ok);
    assert_eq!(guest.read(512, 4096), [[1; 2048], [2; 2048]].concat());
}

#[test]
fn regions_come_and_go_under_load() {
    let daemon = Daemon::with_node(FILE, "");
    let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
    let mut load = Load::new(&mut device, 2, 5);
    for round in 0..30u64 {
        // The load goes on while this region comes and goes.
        let bystander = region(4096, 1);
        load.fill();
        device.add_region(bystander).unwrap();
        load.steps(20);
        load.fill();
        device.remove_region(bystander.addr).unwrap();
        load.steps(20);
        // And then moves into one of its own, wherever the last one was.
        let home = region(8192 + 16 * (round % 3), 4);
        device.add_region(home).unwrap();
        load.drain();
        let mut arena = Arena::new(home);
        load.use_buffers(device.memory(), || arena.alloc(BLOCK, 4096).unwrap());
        load.steps(100);
        load.drain();
        let mut arena = Arena::new(region(32, 4));
        load.use_buffers(device.memory(), || arena.alloc(BLOCK, 4096).unwrap());
        device.remove_region(home.addr).unwrap();
        load.steps(50);
    }
    load.drain();
    assert!(daemon.image() == load.expected(DISK));
}

#[test]
fn memory_that_was_unplugged_is_no_longer_used() {
    let daemon = Daemon::with_node(FILE, "");
    let mut guest = Guest::new(&daemon);
    let plugged = region(4096, 1);
    guest.device.add_region(plugged).unwrap();
    let data = [GuestBuf { addr: plugged.addr, len: 4096 }];
    assert_eq!(guest.run(&Request::Write { offset: 0, data: &data }), Status::Ok);
    guest.device.remove_region(plugged.addr).unwrap();
    assert_eq!(guest.run(&Request::Write { offset: 0, data: &data }), Status::IoError);
    assert_eq!(guest.write(0, &[1; 512]), Status::Ok);
    guest.device.add_region(plugged).unwrap();
    assert_eq!(guest.run(&Request::Write { offset: 0, data: &data }), Status::Ok);
}

#[test]
fn as_many_regions_as_the_device_says_can_be_plugged_and_no_more() {
    let daemon = Daemon::with_node(FILE, "");
    let slots = Rude::new(&daemon).max_mem_slots();
    let mut guest = Guest::new(&daemon);
    let spec = |slot: u64| RegionSpec { addr: (slot + 1) << 30, len: 4096 };
    // The first slot holds the guest's first region.
    (1..slots).for_each(|slot| guest.device.add_region(spec(slot)).unwrap());
    assert!(guest.device.add_region(spec(slots)).is_err());
    if !guest.device.is_closed() {
        let data = [GuestBuf { addr: spec(slots - 1).addr, len: 4096 }];
        assert_eq!(guest.run(&Request::Write { offset: 0, data: &data }), Status::Ok);
    }
    drop(guest);
    assert_eq!(Guest::new(&daemon).write(0, &[1; 512]), Status::Ok);
}

#[test]
fn truncated_guest_memory_ends_the_session_and_not_the_daemon() {
    for node in [FILE, "driver=null-co,node-name=n,size=33554432,read-zeroes=on"] {
        let mut daemon = Daemon::with_node(node, "");
        for kept in [0, MIB, 16 * MIB] {
            let mut device = daemon.connect(DeviceOptions::default().with_queues(2, 64));
            let mut queue = device.create_queue(0).unwrap();
            device.start_queue(0).unwrap();
            // Data behind the cut, rings behind it as well when nothing is kept.
            let data = [GuestBuf { addr: 48 * MIB, len: 65536 }];
            for block in 0..32 {
                queue.enqueue(&Request::Read { offset: block * 65536, data: &data }).unwrap();
            }
            queue.publish().unwrap();
            finish(&mut queue, 0);
            for _ in 0..32 {
                queue.enqueue(&Request::Read { offset: 0, data: &data }).unwrap();
            }
            queue.publish().unwrap();
            let doorbell = queue.doorbell().clone();
            // From here on our own mapping is gone, too: nothing below touches the rings.
            device.memory().regions()[0].file().unwrap().set_len(kept).unwrap();
            doorbell.kick().unwrap();
            if kept == 0 {
                wait_until("the end of the session", || {
                    doorbell.kick().unwrap();
                    device.is_closed()
                });
            }
            drop((device, queue));
            assert!(daemon.is_running());
            assert_eq!(Guest::new(&daemon).write(0, &[1; 512]), Status::Ok);
        }
        daemon.stop();
    }
}
