//! A group of disks that share limits.
//!
//! Requests of all threads come here. Who may pass is decided under one lock, in the order of two lines, one for reads and
//! one for writes: whoever looks lets everybody pass whose time has come. Only who is first in a line has a timer; when it
//! has passed it wakes the next. So nothing runs while nobody waits, and no thread of its own is needed.

use super::limits::{LimitsError, Meter, ThrottleLimits, Way};
use super::line::{Line, Ticket};
use crate::reactor::Handle;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A group.
pub struct ThrottleGroup {
    name: String,
    state: Mutex<State>,
    /// A bit for each way that is limited.
    limited: AtomicU8,
    members: AtomicUsize,
    numbers: AtomicU64,
}

struct State {
    meter: Meter,
    lines: [Line; 2],
    /// Whose turn it was last.
    last: Way,
}

impl std::fmt::Debug for ThrottleGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThrottleGroup({})", self.name)
    }
}

fn bit(way: Way) -> u8 {
    1 << way as usize
}

impl ThrottleGroup {
    /// A group with these limits.
    ///
    /// # Errors
    /// They cannot stand together.
    pub fn new(name: String, limits: ThrottleLimits) -> Result<Arc<Self>, LimitsError> {
        let state = State { meter: Meter::default(), lines: Default::default(), last: Way::Write };
        let (limited, members, numbers) = (AtomicU8::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        let group = Arc::new(Self { name, state: Mutex::new(state), limited, members, numbers });
        group.change(limits)?;
        Ok(group)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its limits.
    pub fn limits(&self) -> ThrottleLimits {
        self.locked().meter.limits()
    }

    /// Whether a node is in it.
    pub fn is_used(&self) -> bool {
        self.members.load(Ordering::Acquire) > 0
    }

    /// Other limits from now on, also for those who wait.
    ///
    /// # Errors
    /// They cannot stand together; nothing has changed.
    pub fn change(&self, limits: ThrottleLimits) -> Result<(), LimitsError> {
        limits.check()?;
        let mut state = self.locked();
        state.meter.change(limits);
        let limited = Way::BOTH.into_iter().filter(|way| state.meter.limits_any(*way)).map(bit).sum();
        self.limited.store(limited, Ordering::Release);
        state.lines.iter().for_each(Line::wake_first);
        Ok(())
    }

    fn limits_any(&self, way: Way) -> bool {
        self.limited.load(Ordering::Acquire) & bit(way) != 0
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets those pass whose time has come. Of reads and writes that could, the others than last time go first.
    fn advance(&mut self, now: u64) {
        self.meter.advance(now);
        let mut passed = false;
        while let Some(way) = self.ready() {
            let Some(ticket) = self.lines[way as usize].next() else { break };
            self.meter.take(way, ticket.len);
            self.last = way;
            passed = true;
            ticket.waker.into_iter().for_each(Waker::wake);
        }
        if passed {
            self.lines.iter().for_each(Line::wake_first);
        }
    }

    fn ready(&self) -> Option<Way> {
        let mut ways = [self.last.other(), self.last].into_iter();
        ways.find(|way| !self.lines[*way as usize].is_empty() && self.meter.is_open(*way))
    }
}

/// A node of a group.
pub(super) struct Member {
    group: Arc<ThrottleGroup>,
    number: u64,
    /// For how many its requests do not wait.
    released: AtomicUsize,
    left: AtomicBool,
}

impl Member {
    pub(super) fn new(group: Arc<ThrottleGroup>) -> Self {
        group.members.fetch_add(1, Ordering::AcqRel);
        let number = group.numbers.fetch_add(1, Ordering::Relaxed);
        Self { group, number, released: AtomicUsize::new(0), left: AtomicBool::new(false) }
    }

    pub(super) fn group(&self) -> &Arc<ThrottleGroup> {
        &self.group
    }

    /// Whether requests have anything to wait for.
    pub(super) fn limits_any(&self, way: Way) -> bool {
        self.group.limits_any(way)
    }

    /// Waits until a request may pass.
    pub(super) async fn pass(&self, io: &Handle, way: Way, len: u64) {
        let place = self.enter(io.read_clock(), way, len);
        let mut timer = None;
        std::future::poll_fn(|cx| place.poll(io, &mut timer, cx)).await;
    }

    /// A request comes to its line, and may have passed already.
    fn enter(&self, now: u64, way: Way, len: u64) -> Place<'_> {
        let number = self.group.numbers.fetch_add(1, Ordering::Relaxed);
        let mut state = self.group.locked();
        state.lines[way as usize].add(self.number, Ticket { number, len, waker: None });
        state.advance(now);
        if self.is_released() {
            self.let_all_pass(&mut state);
        }
        Place { member: self, way, number }
    }

    /// Nothing of this node waits until as many [`Member::hold_back`] have come.
    pub(super) fn release(&self) {
        self.released.fetch_add(1, Ordering::AcqRel);
        self.let_all_pass(&mut self.group.locked());
    }

    /// Undoes one [`Member::release`].
    pub(super) fn hold_back(&self) {
        self.released.fetch_sub(1, Ordering::AcqRel);
    }

    /// Is in the group no more, though requests may still wait there.
    pub(super) fn leave(&self) {
        if !self.left.swap(true, Ordering::AcqRel) {
            self.group.members.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire) > 0
    }

    /// What passes before its time counts all the same.
    fn let_all_pass(&self, state: &mut State) {
        for way in Way::BOTH {
            for ticket in state.lines[way as usize].take(self.number) {
                state.meter.take(way, ticket.len);
                ticket.waker.into_iter().for_each(Waker::wake);
            }
        }
        state.lines.iter().for_each(Line::wake_first);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request's place in a line, given up when dropped.
struct Place<'a> {
    member: &'a Member,
    way: Way,
    number: u64,
}

type Timer<'a> = Option<Pin<Box<dyn Future<Output = ()> + 'a>>>;

impl Place<'_> {
    /// Ready when the request may pass, which is when it is in line no more.
    fn poll<'a>(&self, io: &'a Handle, timer: &mut Timer<'a>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = io.read_clock();
            let mut state = self.member.group.locked();
            state.advance(now);
            let line = &mut state.lines[self.way as usize];
            let Some(ticket) = line.find(self.member.number, self.number) else { return Poll::Ready(()) };
            ticket.waker = Some(cx.waker().clone());
            let is_first = line.first().is_some_and(|first| first.number == self.number);
            let time = state.meter.next(self.way);
            drop(state);
            if !is_first {
                *timer = None;
                return Poll::Pending;
            }
            let timer = timer.insert(Box::pin(io.sleep_until(time)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.member.group.locked();
        let line = &mut state.lines[self.way as usize];
        line.remove(self.member.number, self.number);
        line.wake_first();
    }
}
