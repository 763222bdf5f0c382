//! An in-flight area that the front-end takes away or fills with nonsense. The messages are made by hand, because a
//! front-end of good will never touches the area.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::event::{EventfdFlags, eventfd};
use tidemark_frontend::{
    Arena, DESC_F_NEXT, DESC_F_WRITE, Descriptor, GuestMemory, RegionSpec, Ring, RingLayout, Status,
};

use super::daemon::{Daemon, FILE};
use super::guest::{Guest, read_header};
use super::messages::{Rude, halves, inflight, memfd, message, table, words};
use crate::cli::process::TIMEOUT;

const SIZE: u16 = 64;
const AREA: u64 = 1 << 16;
const VERSION: u32 = 1;
/// For requests that may never be answered.
const MOMENT: Duration = Duration::from_millis(50);

/// A ring set up by hand, with an in-flight area of our own.
struct Bare {
    rude: Rude,
    ring: Ring,
    kick: OwnedFd,
    // The ring holds on to its region; this, to what the region's messages were made of.
    _memory: GuestMemory,
}

impl Bare {
    fn new(daemon: &Daemon, area: &File) -> Self {
        let spec = RegionSpec { addr: 0, len: 1 << 20 };
        let memory = GuestMemory::new(&[spec]).unwrap();
        let mut arena = Arena::new(spec);
        let layout = RingLayout::alloc(SIZE, &mut arena).unwrap();
        let data = arena.alloc(8192, 4096).unwrap();
        memory.write(data.addr, &read_header()).unwrap();
        let ring = Ring::new(&memory, layout, true).unwrap();
        for (index, (offset, len, flags)) in
            (0..).zip([(0, 16, DESC_F_NEXT), (4096, 512, DESC_F_NEXT | DESC_F_WRITE), (1024, 1, DESC_F_WRITE)])
        {
            let next = index + 1;
            ring.write_descriptor(index, Descriptor { addr: data.addr + offset, len, flags, next }).unwrap();
        }
        let mut bare =
            Self { rude: Rude::new(daemon), ring, kick: eventfd(0, EventfdFlags::CLOEXEC).unwrap(), _memory: memory };
        bare.announce(area);
        bare
    }

    fn announce(&mut self, area: &File) {
        let (region, layout) = (self.ring.region().clone(), self.ring.layout());
        let user = |addr| region.user_addr(addr).unwrap();
        let mut tell = |request, payload: Vec<u8>, fd: Option<&dyn AsFd>| {
            let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
            self.rude.send(&message(request, VERSION, &payload), &fds);
        };
        tell(32, inflight(AREA, 0, 4, SIZE), Some(area));
        tell(5, table(&[[0, 1 << 20, user(0), 0]]), Some(&region.file().unwrap()));
        tell(8, halves(&[0, u32::from(SIZE)]), None);
        tell(10, halves(&[0, 0]), None);
        let parts = words(&[user(layout.desc), user(layout.used), user(layout.avail), 0]);
        tell(9, [halves(&[0, 0]), parts].concat(), None);
        tell(12, words(&[0]), Some(&self.kick));
        tell(18, halves(&[0, 1]), None);
    }

    /// Offers a good read; whether it was used within `patience`.
    fn read(&self, patience: Duration) -> bool {
        let used = self.ring.used_idx().unwrap();
        self.ring.offer(0).unwrap();
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
        let deadline = Instant::now() + patience;
        while self.ring.used_idx().unwrap() == used && Instant::now() < deadline {
            std::thread::yield_now();
        }
        self.ring.used_idx().unwrap() != used
    }
}

#[test]
fn an_in_flight_area_that_is_truncated_ends_at_most_the_session() {
    let mut daemon = Daemon::with_node(FILE, "");
    let area = memfd(AREA);
    let mut bare = Bare::new(&daemon, &area);
    assert!(bare.read(TIMEOUT) && bare.read(TIMEOUT), "a good area");
    area.set_len(0).unwrap();
    bare.read(MOMENT);
    assert!(bare.rude.is_hung_up_on());
    drop(bare);
    assert!(daemon.is_running());
    assert_eq!(Guest::new(&daemon).write(0, &[1; 512]), Status::Ok);
    daemon.wait_logged("session ended", 1);
    daemon.stop();
}

#[test]
fn an_in_flight_area_full_of_nonsense_ends_at_most_the_session() {
    let mut daemon = Daemon::with_node(FILE, "");
    let mut rng = Rng::with_seed(9);
    for round in 0..40u8 {
        let area = memfd(AREA);
        let mut bytes: Vec<u8> = (0..AREA).map(|_| if rng.u8(..4) == 0 { rng.u8(..) } else { 0 }).collect();
        // The start of a queue's region, as a good one has it: features, version, descriptors, list, used index.
        let start = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, SIZE.to_le_bytes()[0], 0, rng.u8(..), 0, rng.u8(..3), 0];
        if round % 2 == 0 {
            bytes[..16].copy_from_slice(&start);
        }
        area.write_all_at(&bytes, 0).unwrap();
        let bare = Bare::new(&daemon, &area);
        bare.read(MOMENT);
        // And changes while it is in use.
        bytes.reverse();
        area.write_all_at(&bytes, 0).unwrap();
        bare.read(MOMENT);
        drop(bare);
        assert!(daemon.is_running());
        assert_eq!(Guest::new(&daemon).write(0, &[round; 512]), Status::Ok);
    }
    daemon.stop();
}
