//! One reactor's way into the simulated kernel. It never blocks: a turn that would sleep returns at once, and the world
//! remembers what would wake it.

use super::World;
use crate::io::{Completion, Io, Job, Op, Token, Wait};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Names the [`SimIo`] of one reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId(pub(super) usize);

pub(super) struct Port {
    pub(super) ready: Vec<Completion>,
    watches: Vec<(Token, Arc<OwnedFd>)>,
    capacity: usize,
    in_flight: usize,
    /// What the last turn was allowed to wait for; [`Wait::No`] is a reactor that did not sleep.
    sleeps: Wait,
    closed: bool,
}

impl Port {
    pub(super) fn new(capacity: usize) -> Self {
        Self { ready: Vec::new(), watches: Vec::new(), capacity, in_flight: 0, sleeps: Wait::No, closed: false }
    }

    pub(super) fn close(&mut self) {
        *self = Self { closed: true, ..Self::new(0) };
    }

    /// The time at which a sleeping reactor wakes by itself.
    pub(super) fn deadline(&self) -> Option<u64> {
        match self.sleeps {
            Wait::Until(time) if !self.closed => Some(time),
            _ => None,
        }
    }

    /// Looks at the watched descriptors and says whether the reactor has a reason to run.
    pub(super) fn look(&mut self, now: u64) -> bool {
        if self.closed {
            return false;
        }
        for (token, fd) in &self.watches {
            if take_signal(fd) {
                self.ready.push(Completion { token: *token, op: None, result: Ok(0) });
            }
        }
        !self.ready.is_empty()
            || match self.sleeps {
                Wait::No => true,
                Wait::Forever => false,
                Wait::Until(time) => time <= now,
            }
    }
}

/// Whether an eventfd was written to since the last look.
fn take_signal(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    let signalled = rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0);
    signalled && rustix::io::read(fd, &mut [0; 8]).is_ok()
}

/// [`Io`] of one reactor in a [`World`]. Dropping it is the death of the process: what is under way happens or does
/// not, and nobody is told.
pub struct SimIo {
    world: World,
    port: PortId,
}

impl SimIo {
    pub(super) fn new(world: World, port: PortId) -> Self {
        Self { world, port }
    }

    /// Its name.
    pub fn port(&self) -> PortId {
        self.port
    }
}

impl Io for SimIo {
    fn submit(&mut self, op: Op, token: Token) {
        let mut state = self.world.0.borrow_mut();
        state.ports[self.port.0].in_flight += 1;
        state.submit(self.port, op, token);
    }

    fn room(&self) -> usize {
        let state = self.world.0.borrow();
        let port = &state.ports[self.port.0];
        port.capacity.saturating_sub(port.in_flight)
    }

    fn watch(&mut self, fd: Arc<OwnedFd>, token: Token) {
        self.world.0.borrow_mut().ports[self.port.0].watches.push((token, fd));
    }

    fn unwatch(&mut self, token: Token) {
        self.world.0.borrow_mut().ports[self.port.0].watches.retain(|(other, _)| *other != token);
    }

    fn turn(&mut self, wait: Wait, completed: &mut Vec<Completion>) {
        let mut state = self.world.0.borrow_mut();
        // A turn takes time, or polling would never end.
        state.now += state.random.u64(50..1000);
        state.hear();
        state.run_due();
        let now = state.now;
        let port = &mut state.ports[self.port.0];
        port.look(now);
        port.sleeps = if port.ready.is_empty() { wait } else { Wait::No };
        let mut ready = std::mem::take(&mut port.ready);
        port.in_flight -= ready.iter().filter(|completion| completion.op.is_some()).count();
        state.random.shuffle(&mut ready);
        completed.append(&mut ready);
    }

    /// There is one thread: what a job does takes no time.
    fn offload(&mut self, job: Job) {
        job();
    }

    fn now(&self) -> u64 {
        self.world.now()
    }

    fn random(&mut self) -> u64 {
        self.world.0.borrow_mut().random.u64(..)
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        // The world is in use only if it has panicked; then its state means nothing any more.
        if let Ok(mut state) = self.world.0.try_borrow_mut() {
            state.abandon(self.port);
        }
    }
}
