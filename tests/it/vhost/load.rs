//! Random reads and writes on several queues of one thread, whose every byte is checked against a model.
//!
//! Invariant: no block has two requests in flight, so the model knows what each read must find. The queues themselves
//! notice a request that completes twice. Of a disk that may lose what was not flushed when its daemon is killed, the
//! model knows all that a block may have then.

use std::cell::{Ref, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidemark_frontend::{Completion, Device, GuestBuf, GuestMemory, Queue, Request, Status};

use super::record::Record;
use crate::cli::process::TIMEOUT;

/// Bytes of a block.
pub const BLOCK: u32 = 4096;
/// Blocks of the disk that are used.
pub const BLOCKS: usize = 1024;
/// Requests per queue.
const DEPTH: u16 = 24;

/// What a slot of a queue is doing.
#[derive(Clone)]
struct Busy {
    serial: u64,
    block: usize,
    write: bool,
    buf: GuestBuf,
    since: Instant,
}

/// Queues under load.
pub struct Load {
    memory: GuestMemory,
    queues: Vec<Queue>,
    bufs: Vec<Vec<GuestBuf>>,
    busy: Vec<Vec<Busy>>,
    /// The byte that fills each block, 0 for one never written.
    model: Vec<u64>,
    /// What each block had when it was flushed last, and all it was given since.
    possible: Vec<Vec<u64>>,
    /// Reads may find any of these for now.
    after_loss: bool,
    taken: Vec<bool>,
    /// Bytes from one block to the next.
    stride: u64,
    /// The blocks that new requests go to.
    window: Range<usize>,
    /// All writes, if they are to be known later, with those of other disks before them.
    record: Option<(Rc<RefCell<Record>>, usize)>,
    rng: Rng,
    completed: u64,
    overtaken: u64,
    slowest: Duration,
}

impl Load {
    /// Starts queues 0 to `count`.
    pub fn new(device: &mut Device, count: u16, seed: u64) -> Self {
        let queues: Vec<Queue> = (0..count)
            .map(|index| {
                let queue = device.create_queue(index).unwrap();
                device.start_queue(index).unwrap();
                queue
            })
            .collect();
        let bufs =
            (0..count).map(|_| (0..DEPTH).map(|_| device.arena().alloc(BLOCK, 4096).unwrap()).collect()).collect();
        Self {
            memory: device.memory(),
            busy: queues.iter().map(|_| Vec::new()).collect(),
            queues,
            bufs,
            model: vec![0; BLOCKS],
            possible: vec![vec![0]; BLOCKS],
            after_loss: false,
            taken: vec![false; BLOCKS],
            stride: u64::from(BLOCK),
            window: 0..BLOCKS,
            record: None,
            rng: Rng::with_seed(seed),
            completed: 0,
            overtaken: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Has the blocks so many bytes apart, from the disk's start; what is between them stays.
    pub fn with_stride(self, stride: u64) -> Self {
        Self { stride, ..self }
    }

    /// Uses no others than these blocks from now on; more than all queues have in flight.
    pub fn within(&mut self, blocks: Range<usize>) {
        self.window = blocks;
    }

    /// Keeps a record from now on, when nothing is under way.
    pub fn keep_record(&mut self) {
        self.share_record(&Rc::default(), 0);
    }

    /// Keeps a record together with other disks from now on, when nothing is under way: block 0 is number `first` there.
    pub fn share_record(&mut self, record: &Rc<RefCell<Record>>, first: usize) {
        self.record = Some((record.clone(), first));
    }

    /// The record.
    pub fn record(&self) -> Ref<'_, Record> {
        self.record.as_ref().expect("a record is kept").0.borrow()
    }

    /// Takes buffers from other memory from now on.
    pub fn use_buffers(&mut self, memory: GuestMemory, mut next: impl FnMut() -> GuestBuf) {
        assert!(self.in_flight() == 0, "buffers are in use");
        self.memory = memory;
        self.bufs.iter_mut().flatten().for_each(|buf| *buf = next());
    }

    /// The blocks from `first` on have these contents before anything is written.
    pub fn assume(&mut self, first: usize, values: impl Iterator<Item = u64>) {
        for (block, value) in (first..).zip(values) {
            self.model[block] = value;
            self.possible[block] = vec![value];
        }
    }

    /// Waits for everything and has it made stable.
    pub fn flush(&mut self) {
        self.drain();
        self.queues[0].enqueue(&Request::Flush).unwrap();
        self.queues[0].publish().unwrap();
        finish(&mut self.queues[0], 0);
        for (possible, value) in self.possible.iter_mut().zip(&self.model) {
            *possible = vec![*value];
        }
    }

    /// The daemon was killed: reads may find what was flushed last, or anything since, until [`Load::settle`].
    pub fn lose(&mut self) {
        self.after_loss = true;
    }

    /// Finds out what is left, which is to be one of what may be; from then on it has to stay.
    pub fn settle(&mut self) {
        self.drain();
        for block in 0..BLOCKS {
            let buf = self.bufs[0].pop().unwrap();
            let offset = block as u64 * self.stride;
            self.queues[0].enqueue(&Request::Read { offset, data: &[buf] }).unwrap();
            self.queues[0].publish().unwrap();
            finish(&mut self.queues[0], 0);
            let found = self.memory.to_vec(buf).unwrap();
            let value = self.possible[block].iter().find(|value| contents(**value) == found);
            self.model[block] = *value.unwrap_or_else(|| panic!("block {block} is none of what was written"));
            self.bufs[0].push(buf);
        }
        self.after_loss = false;
        self.flush();
    }

    /// Submits what fits and takes what completed, until `count` more requests were completed.
    pub fn steps(&mut self, count: u64) {
        let target = self.completed + count;
        while self.completed < target {
            self.fill();
            self.take_one();
        }
    }

    /// Fills the queues up.
    pub fn fill(&mut self) {
        for queue in 0..self.queues.len() {
            while let Some(buf) = self.bufs[queue].pop() {
                self.submit(queue, buf);
            }
            self.queues[queue].publish().unwrap();
        }
    }

    /// Takes what has completed, without waiting.
    pub fn poll(&mut self) {
        for queue in 0..self.queues.len() {
            while let Some(done) = self.queues[queue].pop().unwrap() {
                self.check(queue, done);
            }
        }
    }

    /// Waits for everything in flight.
    pub fn drain(&mut self) {
        while self.in_flight() > 0 {
            self.take_one();
        }
    }

    /// Requests in flight on all queues.
    pub fn in_flight(&self) -> usize {
        self.busy.iter().map(Vec::len).sum()
    }

    /// Requests completed so far.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Completions so far that came before that of a request submitted earlier.
    pub fn overtaken(&self) -> u64 {
        self.overtaken
    }

    /// What the slowest request took of those that have completed since this was asked last, as far as they were in
    /// flight then.
    pub fn take_slowest(&mut self) -> Duration {
        let now = Instant::now();
        let slowest = std::mem::take(&mut self.slowest);
        let waiting = self.busy.iter().flatten().map(|busy| now - busy.since).max();
        slowest.max(waiting.unwrap_or_default())
    }

    /// What a disk of `len` bytes has to hold now.
    pub fn expected(&self, len: u64) -> Vec<u8> {
        let mut disk = vec![0; usize::try_from(len).unwrap()];
        let stride = usize::try_from(self.stride).unwrap();
        for (place, value) in disk.chunks_mut(stride).zip(&self.model) {
            place[..BLOCK as usize].copy_from_slice(&contents(*value));
        }
        disk
    }

    fn take_one(&mut self) {
        for queue in 0..self.queues.len() {
            if self.queues[queue].in_flight() > 0 {
                let waited = self.queues[queue].wait(TIMEOUT).unwrap();
                assert!(waited, "queue {queue} hangs with {} in flight", self.queues[queue].in_flight());
                while let Some(done) = self.queues[queue].pop().unwrap() {
                    self.check(queue, done);
                }
            }
        }
    }

    fn submit(&mut self, queue: usize, buf: GuestBuf) {
        let block = loop {
            let block = self.rng.usize(self.window.clone());
            if !std::mem::replace(&mut self.taken[block], true) {
                break block;
            }
        };
        let write = self.rng.bool();
        let offset = block as u64 * self.stride;
        let request = if write {
            self.model[block] = self.rng.u64(1..);
            self.possible[block].push(self.model[block]);
            if let Some((record, first)) = &self.record {
                record.borrow_mut().submit(first + block, self.model[block]);
            }
            self.memory.write(buf.addr, &contents(self.model[block])).unwrap();
            Request::Write { offset, data: &[buf] }
        } else {
            self.memory.fill(buf, 0xee).unwrap();
            Request::Read { offset, data: &[buf] }
        };
        let token = self.queues[queue].enqueue(&request).unwrap();
        self.busy[queue].push(Busy { serial: token.serial, block, write, buf, since: Instant::now() });
    }

    fn check(&mut self, queue: usize, done: Completion) {
        let busy = &mut self.busy[queue];
        let position = busy.iter().position(|busy| busy.serial == done.token.serial).unwrap();
        self.overtaken += u64::from(position > 0);
        let Busy { block, write, buf, since, .. } = busy.remove(position);
        self.slowest = self.slowest.max(since.elapsed());
        assert_eq!(done.status, Status::Ok, "queue {queue}, block {block}, write: {write}");
        if !write {
            let found = self.memory.to_vec(buf).unwrap();
            let fits = match self.after_loss {
                true => self.possible[block].iter().any(|value| found == contents(*value)),
                false => found == contents(self.model[block]),
            };
            assert!(fits, "queue {queue}: block {block} is not what was written");
        }
        if let Some((record, first)) = self.record.as_ref().filter(|_| write) {
            record.borrow_mut().complete(first + block);
        }
        self.taken[block] = false;
        self.bufs[queue].push(buf);
        self.completed += 1;
    }
}

fn contents(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(BLOCK as usize / 8)
}

/// Takes completions, all of them successes, until no more than `left` are in flight.
pub fn finish(queue: &mut Queue, left: u16) {
    while queue.in_flight() > left {
        assert!(queue.wait(TIMEOUT).unwrap(), "{} requests hang", queue.in_flight());
        queue.poll(|done| assert_eq!(done.status, Status::Ok)).unwrap();
    }
}
