//! `Io` over io_uring: one ring per thread, one `io_uring_enter` per turn.
//!
//! The slab owns each operation and its memory until the kernel's last completion of it; a ring that is dropped with
//! operations in flight leaks them, because the kernel may still write. What io_uring lacks goes to `workers`.
#![allow(unsafe_code)]

mod entry;
mod inline;
mod known;
mod message;
mod patience;
mod setup;
mod slots;

use super::buf::byte_count;
use super::workers::{Inbox, Workers};
use super::{Completion, FileTable, Io, Job, Op, OpKind, Token, Wait};
use crate::error::{GraphError, IoError};
use inline::Inline;
use io_uring::{IoUring, opcode, types};
use slots::{Held, Slots};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// Submission entries: what one turn of one queue can produce before an extra enter is needed.
const SQ_ENTRIES: u32 = 256;
/// Operations in flight; completions can then never overflow the ring.
const CAPACITY: u32 = 2048;
/// Direct operations handed to the kernel at first in a turn, to start the device; each hand-over doubles the next. A
/// batch submitted as one is prepared whole, at about 2 us an operation, while the device stands still.
const FIRST_BURST: u32 = 2;
/// Marks the user data of a watch.
const WATCH: u64 = 1 << 63;
/// User data of requests whose completion says nothing.
const NOBODY: u64 = u64::MAX;
/// The beginning of the time that all rings share.
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

struct InFlight {
    op: Op,
    token: Token,
    /// What the kernel may look its file up by at any time until it has ended.
    file: Held,
    /// Beside the segments, of a socket's operation.
    header: Option<message::Header>,
}

struct Watch {
    fd: Arc<OwnedFd>,
    token: Token,
    ended: bool,
}

/// One thread's ring.
pub struct Uring {
    ring: IoUring,
    slots: Slots,
    in_flight: Vec<Option<InFlight>>,
    free: Vec<u32>,
    waiting: VecDeque<(Op, Token)>,
    done: Vec<Completion>,
    watches: Vec<Option<Watch>>,
    inbox: Arc<Inbox>,
    workers: Arc<Workers>,
    random: fastrand::Rng,
    submits: u32,
    burst: u32,
    inline: Inline,
}

impl Uring {
    /// A ring of this thread over these files.
    ///
    /// # Errors
    /// [`GraphError::Uring`] when the kernel refuses; the text names the sysctl or seccomp rule to look at.
    pub fn new(files: Arc<FileTable>, workers: Arc<Workers>) -> Result<Self, GraphError> {
        let ring = setup::build(SQ_ENTRIES, CAPACITY * 2).map_err(setup::explain)?;
        let slots = Slots::new(&ring, files);
        let inbox = Arc::new(Inbox::new().map_err(setup::explain)?);
        let mut uring = Self {
            ring,
            slots,
            in_flight: (0..CAPACITY).map(|_| None).collect(),
            free: (0..CAPACITY).rev().collect(),
            waiting: VecDeque::new(),
            done: Vec::new(),
            watches: Vec::new(),
            workers,
            random: fastrand::Rng::new(),
            submits: 0,
            burst: FIRST_BURST,
            inline: Inline::default(),
            inbox: inbox.clone(),
        };
        uring.watch(inbox.bell(), Token(NOBODY));
        Ok(uring)
    }

    fn start(&mut self, op: Op, token: Token) {
        self.slots.drop_closed(&self.ring);
        let Some((target, info)) = self.slots.find(&self.ring, op.file) else {
            return self.finish(op, token, Err(IoError::Io));
        };
        let (op, token) = match self.inline.try_run(info, op) {
            Ok((op, result)) => return self.finish(op, token, result),
            Err(op) => (op, token),
        };
        let Some(index) = self.free.pop() else {
            return self.waiting.push_back((op, token));
        };
        let starts_device = info.direct;
        let by_worker = match op.kind {
            OpKind::Discard | OpKind::Zero { .. } => info.block_device,
            OpKind::Extent { .. } | OpKind::Grow | OpKind::Cut => true,
            _ => false,
        };
        if by_worker {
            self.workers.run(info.clone(), op.kind, op.offset, op.len, self.inbox.clone(), index);
            let file = self.slots.hold(op.file, target);
            self.in_flight[index as usize] = Some(InFlight { op, token, file, header: None });
            return;
        }
        let file = self.slots.hold(op.file, target);
        let slot = self.in_flight[index as usize].insert(InFlight { header: message::header(&op), op, token, file });
        // The segments live in the slab's operation, which stays until its completion, as the header does.
        let entry = entry::build(&slot.op, slot.header.as_mut(), target).user_data(u64::from(index));
        self.push(entry);
        if starts_device && self.submits >= self.burst {
            self.burst = self.burst.saturating_mul(2);
            self.enter(Wait::No);
        }
    }

    fn push(&mut self, entry: io_uring::squeue::Entry) {
        loop {
            // SAFETY: the entry points into memory owned by the slab's operation (or nowhere), which lives until the
            // completion is seen.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.submits += 1;
                return;
            }
            self.enter(Wait::No);
        }
    }

    fn finish(&mut self, op: Op, token: Token, result: Result<u64, IoError>) {
        self.done.push(Completion { token, op: Some(op), result });
    }

    /// The one system call: submits, sleeps as told, lets the kernel post completions.
    fn enter(&mut self, wait: Wait) {
        self.submits = 0;
        let submitter = self.ring.submitter();
        let result = match wait {
            Wait::No => submitter.submit(),
            Wait::Forever => submitter.submit_and_wait(1),
            Wait::Until(deadline) => {
                let left = deadline.saturating_sub(self.now());
                let time = types::Timespec::new()
                    .sec(left / 1_000_000_000)
                    .nsec(u32::try_from(left % 1_000_000_000).unwrap_or(0));
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        if let Err(error) = result {
            setup::tolerate(&error);
        }
    }

    fn reap(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else { break };
            let (data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            if data == NOBODY {
                continue;
            }
            if data & WATCH != 0 {
                self.report(byte_count(data & !WATCH), io_uring::cqueue::more(flags));
                continue;
            }
            let result = if result < 0 { Err(IoError::from_errno(-result)) } else { Ok(result.unsigned_abs().into()) };
            // What is not of a watch is an index of `in_flight`.
            self.complete(u32::try_from(data).unwrap_or(u32::MAX), result);
        }
    }

    fn complete(&mut self, index: u32, result: Result<u64, IoError>) {
        let Some(InFlight { op, token, file, .. }) = self.in_flight.get_mut(index as usize).and_then(Option::take)
        else {
            return;
        };
        self.free.push(index);
        self.slots.let_go(&self.ring, file);
        self.finish(op, token, result);
    }

    fn report(&mut self, index: usize, armed: bool) {
        let Some(watch) = self.watches.get_mut(index).and_then(Option::as_mut) else { return };
        if watch.ended {
            if !armed {
                self.watches[index] = None;
            }
            return;
        }
        let token = watch.token;
        if !armed {
            self.arm(index);
        }
        if token == Token(NOBODY) {
            self.take_worker_results();
        } else {
            self.done.push(Completion { token, op: None, result: Ok(0) });
        }
    }

    fn arm(&mut self, index: usize) {
        let Some(watch) = &self.watches[index] else { return };
        let entry = opcode::PollAdd::new(types::Fd(watch.fd.as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(WATCH | index as u64);
        self.push(entry);
    }

    fn take_worker_results(&mut self) {
        for (index, result) in self.inbox.take() {
            self.complete(index, result);
        }
    }

    fn start_waiting(&mut self) {
        while !self.free.is_empty()
            && let Some((op, token)) = self.waiting.pop_front()
        {
            self.start(op, token);
        }
    }
}

impl Io for Uring {
    fn submit(&mut self, op: Op, token: Token) {
        self.start(op, token);
    }

    fn room(&self) -> usize {
        if self.waiting.is_empty() { self.free.len() } else { 0 }
    }

    fn watch(&mut self, fd: Arc<OwnedFd>, token: Token) {
        let watch = Some(Watch { fd, token, ended: false });
        let index = self.watches.iter().position(Option::is_none).unwrap_or(self.watches.len());
        if index == self.watches.len() {
            self.watches.push(watch);
        } else {
            self.watches[index] = watch;
        }
        self.arm(index);
    }

    fn unwatch(&mut self, token: Token) {
        let live = |watch: &Option<Watch>| watch.as_ref().is_some_and(|watch| watch.token == token && !watch.ended);
        let Some(index) = self.watches.iter().position(live) else { return };
        if let Some(watch) = &mut self.watches[index] {
            watch.ended = true;
        }
        self.push(opcode::PollRemove::new(WATCH | index as u64).build().user_data(NOBODY));
    }

    fn turn(&mut self, wait: Wait, completed: &mut Vec<Completion>) {
        // Before it sleeps: descriptors of what tasks have closed would stay open until it wakes.
        self.slots.drop_closed(&self.ring);
        self.reap();
        let wait = if self.done.is_empty() { wait } else { Wait::No };
        let due = self.submits > 0 || wait != Wait::No || self.ring.submission().taskrun();
        if due {
            self.enter(wait);
            self.reap();
        }
        self.burst = FIRST_BURST;
        self.start_waiting();
        if completed.is_empty() {
            std::mem::swap(completed, &mut self.done);
        } else {
            completed.append(&mut self.done);
        }
    }

    fn offload(&mut self, job: Job) {
        self.workers.offload(job);
    }

    fn now(&self) -> u64 {
        u64::try_from(STARTED.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn random(&mut self) -> u64 {
        self.random.u64(..)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        for slot in self.in_flight.drain(..).flatten() {
            // The kernel may write into this memory for as long as it likes.
            std::mem::forget(slot.op);
        }
    }
}
