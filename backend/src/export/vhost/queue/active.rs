//! A ring in use: its requests from fetch to used entry.

use super::super::memory::{MemTable, MemoryPin};
use super::super::request::{self, Command, Limits, Status};
use super::super::ring::{Chain, Popped, Ring, RingError};
use super::super::shared::ExportShared;
use super::{KICK, RingStart};
use crate::error::IoError;
use crate::io::{Memory, Op, Segment, byte_count};
use crate::node::{Kind, Map, Outcome, Request, Root, Section, Stamp};
use crate::reactor::{Done, Handle, Reactor};
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// Requests started per turn, so that completions are published in between.
const REQUESTS_PER_TURN: u32 = 128;
/// Bytes started per turn: cached reads are copied while they are submitted.
const BYTES_PER_TURN: u64 = 1 << 20;
/// At most one report of failing I/O in this many nanoseconds; the guest is told of each.
const REPORT_EVERY: u64 = 10_000_000;

/// A request whose data is under way.
struct Pending {
    head: u16,
    status: Segment,
    kind: Kind,
    len: u64,
    started: u64,
    /// Of a changing request that went to the ring from here; a task ends its own.
    stamp: Stamp,
    table: MemoryPin,
}

/// Tasks that have ended, for the queue to complete.
type Ended = Rc<RefCell<Vec<(u32, Outcome)>>>;

pub(super) struct Active {
    index: u16,
    export: Arc<ExportShared>,
    root: Rc<Root>,
    handle: Handle,
    ring: Ring,
    chain: Chain,
    spare: Vec<Vec<Segment>>,
    pending: Vec<Option<Pending>>,
    free: Vec<u32>,
    ended: Ended,
    kick: Option<Arc<OwnedFd>>,
    call: Option<Arc<OwnedFd>>,
    err: Option<Arc<OwnedFd>>,
    enabled: bool,
    stopping: bool,
    broken: bool,
    /// Answers the guest was not shown yet.
    unpublished: u32,
    /// Whether the guest was asked for kicks.
    armed: bool,
    last_report: Option<u64>,
}

impl Active {
    pub(super) fn start(
        index: u16,
        start: RingStart,
        export: &Arc<ExportShared>,
        reactor: &Reactor,
    ) -> Result<Self, RingError> {
        let slots = u32::from(start.config.size);
        let ring = Ring::new(start.memory, start.config, start.inflight)?;
        let mut active = Self {
            index,
            export: export.clone(),
            root: Root::of_sleeper(&export.door, reactor.bell()),
            handle: reactor.handle().clone(),
            ring,
            chain: Chain::with_capacity(8),
            spare: Vec::new(),
            pending: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            ended: Rc::default(),
            kick: None,
            call: start.call,
            err: start.err,
            enabled: start.enabled,
            stopping: false,
            broken: false,
            unpublished: 0,
            armed: false,
            last_report: None,
        };
        active.ring.suppress_kicks();
        active.set_kick(start.kick, reactor.handle());
        Ok(active)
    }

    /// Starts what is available, up to a turn's worth; returns how many requests that were.
    pub(super) fn fetch(&mut self, reactor: &Reactor) -> u32 {
        self.take_ended();
        self.disarm_kicks();
        self.root.refresh();
        if !self.may_pop() {
            return 0;
        }
        let root = self.root.clone();
        let section = root.enter();
        let (mut requests, mut bytes) = (0, 0);
        let limits = self.limits();
        while requests < REQUESTS_PER_TURN && bytes < BYTES_PER_TURN && !self.free.is_empty() && self.may_pop() {
            if reactor.handle().room() == 0 {
                break;
            }
            match self.ring.pop(&mut self.chain) {
                Ok(Popped::Request) => bytes += self.begin(limits, &section),
                Ok(Popped::Malformed(error)) => self.refuse(&error),
                Ok(Popped::Nothing) => break,
                Err(error) => {
                    self.break_down(&error.to_string());
                    break;
                }
            }
            requests += 1;
        }
        if self.ring.memory().is_broken() {
            self.break_down("guest memory was taken away (a memory file was truncated)");
        }
        requests
    }

    fn limits(&self) -> Limits {
        Limits {
            writable: self.export.writable,
            block_size: u64::from(self.export.logical_block_size),
            stable: !self.export.has_write_cache(),
        }
    }

    /// Starts the request in `chain`; returns its bytes.
    fn begin(&mut self, limits: Limits, section: &Section<'_>) -> u64 {
        let head = self.chain.head();
        let Some(status) = self.chain.cut_status() else {
            self.break_down("a request has no place for its status");
            return 0;
        };
        let table = self.ring.memory().clone();
        let spare = self.spare.pop().unwrap_or_default();
        match request::parse(&mut self.chain, &table, limits, spare) {
            Ok(Command::Node(request)) => self.route(head, status, table, request, section),
            Ok(Command::GetId(memory)) => self.get_id(head, status, &table, memory),
            Err(refusal) => {
                self.answer(head, status, &table, refusal, 0);
                0
            }
        }
    }

    /// The fast path, or a task.
    #[inline]
    fn route(
        &mut self,
        head: u16,
        status: Segment,
        table: MemoryPin,
        mut request: Request,
        section: &Section<'_>,
    ) -> u64 {
        let map = section.map(&request);
        let Request { kind, len, .. } = request;
        // A task stamps its request when it has all it needs; what fails at once changes nothing.
        let submitted = !matches!(map, Map::Task | Map::Ended(Err(_)));
        let stamp = if submitted { section.stamp(&request) } else { Stamp::default() };
        let pending = Pending { head, status, kind, len, started: self.handle.now(), stamp, table };
        if let Map::Ended(_) | Map::Zeroes = map {
            if map == Map::Zeroes {
                request.memory.fill_zero(0, len);
            }
            let result = if let Map::Ended(result) = map { result } else { Ok(()) };
            self.settle(pending, request.memory, result);
            return len;
        }
        let Some(slot) = self.free.pop() else { return 0 };
        self.pending[slot as usize] = Some(pending);
        match map {
            Map::File { file, offset, kind } => {
                self.handle.submit(Op { kind, file, offset, len, memory: request.memory }, slot);
            }
            _ => self.spawn(slot, request),
        }
        len
    }

    fn spawn(&self, slot: u32, request: Request) {
        let (root, handle, ended) = (self.root.clone(), self.handle.clone(), self.ended.clone());
        self.handle.spawn(async move {
            let outcome = root.handle(&handle, request).await;
            ended.borrow_mut().push((slot, outcome));
        });
    }

    fn get_id(&mut self, head: u16, status: Segment, table: &MemTable, mut memory: Memory) -> u64 {
        let serial = &self.export.serial;
        let len = memory.len().min(serial.len() as u64);
        memory.copy_from(0, &serial[..byte_count(len)]);
        self.keep_spare(memory);
        self.answer(head, status, table, Status::Ok, len);
        0
    }

    /// A completion of the reactor: a request's data, or a kick (then the next fetch looks at the ring).
    pub(super) fn complete(&mut self, done: Done) {
        if let Some(op) = done.op {
            self.end_slot(done.cookie, op.memory, done.result);
        }
    }

    fn take_ended(&mut self) {
        let ended = std::mem::take(&mut *self.ended.borrow_mut());
        for (slot, (memory, result)) in ended {
            self.end_slot(slot, memory, result);
        }
    }

    fn end_slot(&mut self, slot: u32, memory: Memory, result: Result<(), IoError>) {
        let Some(pending) = self.pending.get_mut(slot as usize).and_then(Option::take) else { return };
        self.free.push(slot);
        self.settle(pending, memory, result);
    }

    /// Counts a finished request and answers the guest.
    #[inline]
    fn settle(&mut self, pending: Pending, memory: Memory, result: Result<(), IoError>) {
        let Pending { head, status, kind, len, started, stamp, table } = pending;
        self.keep_spare(memory);
        self.root.end(stamp);
        let now = self.handle.now();
        self.export.stats[usize::from(self.index)].count(kind, len, now.saturating_sub(started), result.is_ok());
        if let Err(error) = result {
            self.report(kind, error, now);
        }
        let written = if kind == Kind::Read && result.is_ok() { len } else { 0 };
        self.answer(head, status, &table, Status::from(result), written);
    }

    /// Writes the status and the used entry: `written` bytes of data and the status byte.
    #[inline]
    fn answer(&mut self, head: u16, status: Segment, table: &MemTable, value: Status, written: u64) {
        table.write_byte(status, value.byte());
        self.ring.push_used(head, u32::try_from(written + 1).unwrap_or(u32::MAX));
        self.unpublished += 1;
    }

    fn refuse(&mut self, error: &super::super::ring::ChainError) {
        tracing::debug!(export = %self.export.id, queue = self.index, %error, "malformed request");
        let (head, table) = (self.chain.head(), self.ring.memory().clone());
        if let Some(status) = self.chain.status() {
            self.answer(head, status, &table, Status::IoError, 0);
        }
    }

    fn report(&mut self, kind: Kind, error: IoError, now: u64) {
        // A request outside the disk is the guest's mistake, not the storage's.
        let due = self.last_report.is_none_or(|last| now.saturating_sub(last) >= REPORT_EVERY);
        if due && error != IoError::Invalid {
            self.last_report = Some(now);
            self.export.report(kind != Kind::Read, error);
        }
    }

    fn keep_spare(&mut self, memory: Memory) {
        let list = memory.into_segments();
        if list.capacity() > 0 && self.spare.len() < REQUESTS_PER_TURN as usize {
            self.spare.push(list);
        }
    }

    /// Shows the guest what has ended since the last time, with one notification at most; returns how many answers.
    pub(super) fn publish(&mut self) -> u32 {
        self.take_ended();
        let count = std::mem::take(&mut self.unpublished);
        if count == 0 {
            return 0;
        }
        // Before the guest sees an answer: what it sends then is looked for without a kick.
        self.disarm_kicks();
        if self.ring.publish()
            && let Some(call) = &self.call
        {
            // Fails only when the counter is full: then the front-end has been told.
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
        count
    }

    fn break_down(&mut self, why: &str) {
        if std::mem::replace(&mut self.broken, true) {
            return;
        }
        tracing::error!(export = %self.export.id, queue = self.index, "virtqueue stopped: {why}");
        if let Some(err) = &self.err {
            let _ = rustix::io::write(err, &1u64.to_ne_bytes());
        }
    }

    pub(super) fn set_memory(&mut self, table: Arc<MemTable>) {
        if let Err(error) = self.ring.set_memory(table) {
            self.break_down(&error.to_string());
        }
    }

    pub(super) fn set_kick(&mut self, fd: Option<Arc<OwnedFd>>, handle: &Handle) {
        if self.kick.take().is_some() {
            handle.unwatch(KICK);
        }
        if let Some(fd) = &fd {
            handle.watch(fd.clone(), KICK);
        }
        self.kick = fd;
    }

    pub(super) fn set_call(&mut self, fd: Option<Arc<OwnedFd>>) {
        if let Some(call) = &fd {
            // What was published before may have rung a bell nobody heard.
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
        self.call = fd;
    }

    pub(super) fn set_err(&mut self, fd: Option<Arc<OwnedFd>>) {
        self.err = fd;
    }

    pub(super) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(super) fn has_kick(&self) -> bool {
        self.kick.is_some()
    }

    pub(super) fn can_fetch(&self) -> bool {
        self.enabled && !self.stopping && !self.broken
    }

    pub(super) fn has_unpublished(&self) -> bool {
        self.unpublished > 0 || !self.ended.borrow().is_empty()
    }

    /// Asks for kicks; true if there is something that can be fetched already. Without room on the ring it cannot: the
    /// completion that makes room wakes the queue.
    pub(super) fn arm_kicks(&mut self) -> bool {
        self.armed = true;
        match self.ring.arm_kicks() {
            Ok(more) => more && !self.free.is_empty() && self.handle.room() > 0,
            Err(error) => {
                self.break_down(&error.to_string());
                false
            }
        }
    }

    /// Awake, the queue looks at the ring by itself.
    fn disarm_kicks(&mut self) {
        if std::mem::take(&mut self.armed) {
            self.ring.suppress_kicks();
        }
    }

    pub(super) fn stop_fetching(&mut self) {
        self.stopping = true;
        self.root.hurry();
    }

    /// Whether no request is in flight or unpublished.
    pub(super) fn is_drained(&self) -> bool {
        self.free.len() == self.pending.len() && !self.has_unpublished() && !self.must_recover()
    }

    /// Whether a stopping ring has requests left that the last process had fetched: the index that the stop answers
    /// is past them, so they are in flight, even if they were not fetched again yet.
    fn must_recover(&self) -> bool {
        self.stopping && !self.broken && self.ring.has_recovered()
    }

    fn may_pop(&self) -> bool {
        self.can_fetch() || self.must_recover()
    }

    /// Lets go of the ring; returns the next available index.
    pub(super) fn end(mut self, handle: &Handle) -> u16 {
        self.set_kick(None, handle);
        self.ring.next_avail()
    }
}
