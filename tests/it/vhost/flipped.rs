//! A guest that changes descriptors, tables and headers while the device looks at them. Its queue may stop at any
//! moment; nothing else may happen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidemark_frontend::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, DeviceOptions, GuestMemory, RegionSpec, Ring, Status,
};

use super::daemon::{DISK, Daemon, FILE};
use super::guest::Guest;

const SIZE: u16 = 64;
/// All that hostile descriptors may name, so that the rings of the other queue are out of their reach.
const SCRATCH: RegionSpec = RegionSpec { addr: 1 << 40, len: 1 << 20 };
const TIME: Duration = Duration::from_secs(2);

/// Descriptors of a chain; chains start at their multiples.
const CHAIN: u16 = 4;

/// What a good guest writes at this place of a chain: header, two pieces of data, status.
fn good(index: u16, rng: &mut Rng) -> Descriptor {
    let at = SCRATCH.addr + (rng.u64(..SCRATCH.len - 65536) & !15);
    let next = index + 1;
    match index % CHAIN {
        0 => Descriptor { addr: at, len: 16, flags: DESC_F_NEXT, next },
        1 if rng.bool() => Descriptor { addr: at, len: 512, flags: DESC_F_NEXT, next },
        1 | 2 => Descriptor { addr: at, len: 512 * rng.u32(1..64), flags: DESC_F_NEXT | DESC_F_WRITE, next },
        _ => Descriptor { addr: at, len: 1, flags: DESC_F_WRITE, next: 0 },
    }
}

/// One that was changed where that harms the guest's own requests, and seldom the whole queue.
fn bad(index: u16, rng: &mut Rng) -> Descriptor {
    let good = good(index, rng);
    match rng.u16(..2000) {
        0 => Descriptor { next: rng.u16(..), ..good },
        1 => Descriptor { flags: rng.u16(..8), ..good },
        2 => Descriptor { len: rng.u32(..), flags: DESC_F_INDIRECT, ..good },
        3 => Descriptor { addr: rng.u64(SCRATCH.addr..), ..good },
        _ if index % CHAIN == 3 => Descriptor { len: rng.u32(1..100), ..good },
        4..300 => Descriptor { addr: rng.u64(SCRATCH.addr..), ..good },
        300..600 => Descriptor { len: rng.u32(..), ..good },
        600..900 => Descriptor { len: 0, ..good },
        900..1200 => Descriptor { flags: good.flags ^ DESC_F_WRITE, ..good },
        1200..1400 => Descriptor { flags: DESC_F_INDIRECT, len: 32, ..good },
        _ => Descriptor { addr: good.addr + rng.u64(..16), ..good },
    }
}

fn header(rng: &mut Rng) -> [u8; 16] {
    let kinds = [0, 0, 1, 1, 4, 8, 11, 13, 99];
    let mut header = [0; 16];
    header[0] = kinds[rng.usize(..kinds.len())];
    header[8..].copy_from_slice(&rng.u64(..DISK / 512).to_le_bytes());
    header
}

fn flip(ring: &Ring, memory: &GuestMemory, stop: &AtomicBool, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while !stop.load(Ordering::Relaxed) {
        let index = rng.u16(..SIZE);
        let descriptor = if rng.bool() { good(index, &mut rng) } else { bad(index, &mut rng) };
        ring.write_descriptor(index, descriptor).unwrap();
        let at = SCRATCH.addr + (rng.u64(..SCRATCH.len - 16) & !15);
        memory.write(at, &header(&mut rng)).unwrap();
    }
}

/// Offers heads until the time is over or the queue has stopped; returns how many were used.
fn offer(guest: &Guest, until: Instant, rng: &mut Rng) -> u64 {
    let (ring, doorbell) = (guest.queue.ring(), guest.queue.doorbell());
    let mut used = 0;
    while Instant::now() < until && !doorbell.wait_error(Duration::ZERO).unwrap() {
        let (avail, done) = (ring.avail_idx().unwrap(), ring.used_idx().unwrap());
        for _ in 0..SIZE - avail.wrapping_sub(done) {
            ring.offer(rng.u16(..SIZE / CHAIN) * CHAIN).unwrap();
        }
        doorbell.kick().unwrap();
        used += u64::from(ring.used_idx().unwrap().wrapping_sub(done));
    }
    used
}

#[test]
fn descriptors_that_change_while_they_are_read_harm_nobody_else() {
    for (node, seed) in [(FILE, 1u64), ("driver=file,node-name=n,filename=disk,cache.direct=on", 2)] {
        let daemon = Daemon::with_node(node, "");
        let memory = vec![RegionSpec { addr: 0, len: 256 << 20 }, SCRATCH];
        let options = DeviceOptions { memory, ..DeviceOptions::default() };
        let mut guest = Guest::with(&daemon, options.with_queues(2, SIZE));
        let mut other = guest.another_queue(1);
        let mut rng = Rng::with_seed(seed);
        let until = Instant::now() + TIME;
        let (mut used, mut stops) = (0, 0u32);
        while Instant::now() < until {
            let stop = AtomicBool::new(false);
            let (ring, memory) = (guest.queue.ring().clone(), guest.device.memory());
            (0..SIZE).for_each(|index| ring.write_descriptor(index, good(index, &mut rng)).unwrap());
            thread::scope(|scope| {
                let (ring, memory, stop, seed) = (&ring, &memory, &stop, seed + used);
                scope.spawn(move || flip(ring, memory, stop, seed));
                used += offer(&guest, until, &mut rng);
                stop.store(true, Ordering::Relaxed);
            });
            // A ring can be had back whatever it looks like, and after a reset new ones can take its place.
            guest.device.stop_queue(0).unwrap();
            guest.check(&mut other, 11);
            guest.device.reset().unwrap();
            (guest.queue, other) = (guest.another_queue(0), guest.another_queue(1));
            stops += 1;
        }
        println!("{used} requests answered, {stops} rings");
        assert!(used > 300, "only {used} requests were answered");
        assert!(stops > 5, "only {stops} stops");
        guest.check(&mut other, 12);
        assert_eq!(guest.write(0, &[1; 512]), Status::Ok);
        drop((guest, other));
        assert_eq!(Guest::new(&daemon).read(0, 512), [1; 512]);
        daemon.stop();
    }
}
