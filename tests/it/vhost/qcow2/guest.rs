//! A guest of two queues that writes, zeroes, discards, flushes and reads at random, and goes on when its daemon is
//! another one.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fastrand::Rng;
use tidemark_frontend::{Completion, Device, GuestBuf, GuestMemory, Queue, Request, Status};

use super::sectors::{SECTOR, Sectors, Since, contents};
use crate::cli::process::TIMEOUT;

/// Sectors of a request at most.
const MOST: usize = 96;
/// Requests per queue.
const DEPTH: usize = 16;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Read,
    Write,
    Zero { unmap: bool },
    Discard,
    Flush,
}

/// A request under way.
struct Busy {
    serial: u64,
    what: What,
    sectors: Range<usize>,
    /// Of a flush.
    covered: Vec<usize>,
    buf: GuestBuf,
}

/// The guest.
pub struct Guest {
    pub sectors: Sectors,
    memory: GuestMemory,
    queues: Vec<Queue>,
    free: Vec<Vec<GuestBuf>>,
    busy: Vec<Vec<Busy>>,
    rng: Rng,
    /// Sectors of a cluster: a discard takes whole ones.
    unit: usize,
    /// What reads may find.
    since: Since,
    pub ended: u64,
}

impl Guest {
    /// Starts two queues on a disk with this content, of which it uses that much.
    pub fn new(device: &mut Device, content: &[u8], unit: usize, seed: u64) -> Self {
        let queues: Vec<Queue> = (0..2)
            .map(|index| {
                let queue = device.create_queue(index).unwrap();
                device.start_queue(index).unwrap();
                queue
            })
            .collect();
        let len = u32::try_from(MOST * SECTOR).unwrap();
        let free = (0..2).map(|_| (0..DEPTH).map(|_| device.arena().alloc(len, 4096).unwrap()).collect()).collect();
        Self {
            sectors: Sectors::new(content),
            memory: device.memory(),
            queues,
            free,
            busy: vec![Vec::new(), Vec::new()],
            rng: Rng::with_seed(seed),
            unit,
            since: Since::Ended,
            ended: 0,
        }
    }

    /// Keeps both queues full until somebody says that it is over.
    pub fn work_until(&mut self, over: &AtomicBool) {
        while !over.load(Ordering::Acquire) {
            self.fill();
            if !self.take() {
                thread::yield_now();
            }
        }
    }

    /// The daemon was killed. What it has answered counts; the rest its successor does.
    pub fn lose(&mut self, survives: Since) {
        self.take();
        self.since = survives;
    }

    /// Fills both queues up, for a daemon that comes.
    fn fill(&mut self) {
        for queue in 0..self.queues.len() {
            while let Some(buf) = self.free[queue].pop() {
                self.submit(queue, buf);
            }
            self.queues[queue].publish().unwrap();
        }
    }

    fn submit(&mut self, queue: usize, buf: GuestBuf) {
        let sectors = self.place();
        let what = match self.rng.u8(0..64) {
            0..=13 => What::Read,
            14..=45 => What::Write,
            46..=50 => What::Zero { unmap: true },
            51..=55 => What::Zero { unmap: false },
            56..=62 => What::Discard,
            _ => What::Flush,
        };
        let (offset, len) = ((sectors.start * SECTOR) as u64, (sectors.len() * SECTOR) as u64);
        let part = buf.part(0, u32::try_from(len).unwrap()).unwrap();
        let value = self.rng.u64(1..);
        if what == What::Write {
            self.memory.write(part.addr, &contents(value, sectors.len())).unwrap();
        }
        let data = &[part];
        let request = match what {
            What::Read => Request::Read { offset, data },
            What::Write => Request::Write { offset, data },
            What::Zero { unmap } => Request::WriteZeroes { offset, len, unmap },
            What::Discard => Request::Discard { offset, len },
            What::Flush => Request::Flush,
        };
        let covered = if what == What::Flush { self.sectors.covered() } else { Vec::new() };
        let sectors = self.begin(what, sectors, value);
        let token = self.queues[queue].enqueue(&request).unwrap();
        self.busy[queue].push(Busy { serial: token.serial, what, sectors, covered, buf });
    }

    /// Tells the model; what of it the request reads or changes.
    fn begin(&mut self, what: What, sectors: Range<usize>, value: u64) -> Range<usize> {
        let (sectors, value) = match what {
            What::Read => (sectors, None),
            What::Write => (sectors, Some(value)),
            What::Zero { .. } => (sectors, Some(0)),
            What::Flush => (0..0, None),
            What::Discard => {
                let first = sectors.start.next_multiple_of(self.unit);
                (first..(sectors.end / self.unit * self.unit).max(first), Some(0))
            }
        };
        self.sectors.begin(sectors.clone(), value);
        sectors
    }

    /// Somewhere on the disk where nothing is under way.
    fn place(&mut self) -> Range<usize> {
        loop {
            let start = self.rng.usize(..self.sectors.len());
            let most = if self.rng.bool() { 8 } else { MOST };
            let sectors = match self.rng.u8(0..4) {
                0 => {
                    let first = start / self.unit * self.unit;
                    first..first + self.unit.min(MOST)
                }
                _ => start..start + self.rng.usize(1..=most),
            };
            if sectors.end <= self.sectors.len() && self.sectors.is_idle(sectors.clone()) {
                return sectors;
            }
        }
    }

    /// Takes what has ended, if anything has.
    fn take(&mut self) -> bool {
        let before = self.ended;
        for queue in 0..self.queues.len() {
            while let Some(done) = self.queues[queue].pop().unwrap() {
                self.check(queue, done);
            }
        }
        self.ended > before
    }

    fn check(&mut self, queue: usize, done: Completion) {
        let position = self.busy[queue].iter().position(|busy| busy.serial == done.token.serial).unwrap();
        let Busy { what, sectors, covered, buf, .. } = self.busy[queue].remove(position);
        assert_eq!(done.status, Status::Ok, "queue {queue}: {what:?} of {sectors:?}");
        if what == What::Flush {
            self.sectors.flushed(&covered);
        }
        if what == What::Read {
            let part = buf.part(0, u32::try_from(sectors.len() * SECTOR).unwrap()).unwrap();
            let found = self.memory.to_vec(part).unwrap();
            let wrong = self.sectors.judge(sectors.start, &found, self.since);
            assert_eq!(wrong, None, "queue {queue}: read of {sectors:?}");
        }
        self.sectors.end(sectors);
        self.free[queue].push(buf);
        self.ended += 1;
    }

    /// Waits for everything under way.
    pub fn drain(&mut self) {
        for queue in 0..self.queues.len() {
            while self.queues[queue].in_flight() > 0 {
                let waited = self.queues[queue].wait(TIMEOUT).unwrap();
                assert!(waited, "queue {queue} hangs with {} in flight", self.queues[queue].in_flight());
                self.take();
            }
        }
    }

    /// After [`Guest::lose`], with a new daemon: what is there is what may be; from then on it has to stay.
    pub fn settle(&mut self) {
        self.drain();
        let (all, mut content) = (self.sectors.len(), Vec::new());
        for start in (0..all).step_by(MOST) {
            let len = MOST.min(all - start) * SECTOR;
            let buf = self.free[0][0].part(0, u32::try_from(len).unwrap()).unwrap();
            let read = Request::Read { offset: (start * SECTOR) as u64, data: &[buf] };
            assert_eq!(self.queues[0].run(&read, TIMEOUT).unwrap().status, Status::Ok);
            content.extend(self.memory.to_vec(buf).unwrap());
        }
        assert_eq!(self.sectors.judge(0, &content, self.since), None, "after the daemon was killed");
        assert_eq!(self.queues[0].run(&Request::Flush, TIMEOUT).unwrap().status, Status::Ok);
        self.sectors.adopt(&content);
        self.since = Since::Ended;
    }
}
