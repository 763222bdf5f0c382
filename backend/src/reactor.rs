//! The one concurrency primitive: a ring of operations, tasks, timers and a bell, owned by one thread.
//!
//! Passed explicitly, advanced by [`Reactor::turn`]; no thread-locals, so that a simulator can step several in one
//! thread. Knows no nodes. Requests that need no waiting go straight to [`Handle::submit`] and come back to the closure
//! of `turn`; anything else is a task.

mod aside;
mod batch;
mod bell;
mod op;
mod promise;
mod tasks;
mod timers;

pub use batch::Batch;
pub use bell::{EventBell, Waker};
pub use op::Operation;
pub use promise::{Promise, Ticket, promise};

use crate::error::IoError;
use crate::io::{Completion, Io, Op, OpKind, Token, Wait};
use op::Waiting;
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use tasks::Tasks;
use timers::Timers;

/// Tokens at and above this belong to the reactor; below it to the root that submits.
const OWN: u64 = 1 << 62;
const BELL: Token = Token(OWN | (1 << 61));

/// What one thread's tasks and roots share.
struct Shared {
    io: RefCell<Box<dyn Io>>,
    waiting: RefCell<Waiting>,
    timers: RefCell<Timers>,
    spawned: RefCell<Vec<tasks::Task>>,
    now: Cell<u64>,
}

/// A task's or root's way to its reactor.
#[derive(Clone)]
pub struct Handle(Rc<Shared>);

impl Handle {
    /// Submits an operation of a root; its completion goes to the closure given to [`Reactor::turn`] with this cookie.
    pub fn submit(&self, op: Op, cookie: u32) {
        self.0.io.borrow_mut().submit(op, Token(u64::from(cookie)));
    }

    /// Runs an operation for the calling task. Dropping the future orphans the operation, never its memory.
    pub fn run(&self, op: Op) -> Operation<'_> {
        Operation::new(self, op)
    }

    /// Operations that can be submitted before the rings are full.
    pub fn room(&self) -> usize {
        self.0.io.borrow().room()
    }

    /// Nanoseconds on the reactor's clock as of this turn.
    pub fn now(&self) -> u64 {
        self.0.now.get()
    }

    /// Reads the clock anew.
    pub fn read_clock(&self) -> u64 {
        let now = self.0.io.borrow().now();
        self.0.now.set(now);
        now
    }

    /// Sleeps until the clock shows `deadline` nanoseconds.
    pub fn sleep_until(&self, deadline: u64) -> timers::Sleep<'_> {
        timers::Sleep::new(&self.0.timers, &self.0.now, deadline)
    }

    /// Starts a task; it first runs in this or the next turn.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawned.borrow_mut().push(Box::pin(task));
    }

    /// Reports each write to the eventfd `fd` to the root as `cookie`, without an operation.
    pub fn watch(&self, fd: Arc<OwnedFd>, cookie: u32) {
        self.0.io.borrow_mut().watch(fd, Token(u64::from(cookie)));
    }

    /// Ends a watch.
    pub fn unwatch(&self, cookie: u32) {
        self.0.io.borrow_mut().unwatch(Token(u64::from(cookie)));
    }
}

/// A completion for the root.
#[derive(Debug)]
pub struct Done {
    /// As given to [`Handle::submit`] or [`Handle::watch`].
    pub cookie: u32,
    /// The operation with its memory; `None` for a watch.
    pub op: Option<Op>,
    /// All bytes were moved, or why not.
    pub result: Result<(), IoError>,
}

/// One thread's ring, tasks and timers.
pub struct Reactor {
    handle: Handle,
    tasks: Tasks,
    completed: Vec<Completion>,
    bell: Arc<EventBell>,
}

impl Reactor {
    /// A reactor over `io`, owned by the calling thread.
    ///
    /// # Errors
    /// When the system has no eventfd left.
    pub fn new(io: Box<dyn Io>) -> std::io::Result<Self> {
        let bell = bell::new()?;
        let shared = Shared {
            now: Cell::new(io.now()),
            io: RefCell::new(io),
            waiting: RefCell::default(),
            timers: RefCell::default(),
            spawned: RefCell::default(),
        };
        shared.io.borrow_mut().watch(bell.ringer().fd(), BELL);
        Ok(Self { handle: Handle(Rc::new(shared)), tasks: Tasks::new(bell.clone()), completed: Vec::new(), bell })
    }

    /// The way in for roots and tasks.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The bell that wakes this reactor; mailboxes hang on it.
    pub fn bell(&self) -> Arc<EventBell> {
        self.bell.clone()
    }

    /// Whether a task is running or waiting.
    pub fn has_tasks(&self) -> bool {
        !self.tasks.is_empty() || !self.handle.0.spawned.borrow().is_empty()
    }

    /// Whether a task is ready to run: whoever steps several reactors in one thread must not take this one for asleep.
    pub fn has_ready_tasks(&self) -> bool {
        self.tasks.has_ready() || !self.handle.0.spawned.borrow().is_empty()
    }

    /// One turn: runs ready tasks, submits, sleeps as `wait` allows if nothing is to be done (neither here nor by
    /// `pending`, the root's own last look), and hands the root its completions.
    pub fn turn(&mut self, wait: Wait, pending: impl Fn() -> bool, mut root: impl FnMut(Done)) {
        // A task that has run may have ended something the root waits for: it must not sleep on that.
        let wait = if self.run_tasks() { Wait::No } else { self.earliest(wait) };
        if wait == Wait::No {
            self.poll(wait);
        } else {
            self.bell.arm();
            let awake = pending() || self.tasks.has_ready();
            self.poll(if awake { Wait::No } else { wait });
            self.bell.disarm();
        }
        let mut completed = std::mem::take(&mut self.completed);
        for completion in completed.drain(..) {
            self.deliver(completion, &mut root);
        }
        self.completed = completed;
        self.handle.0.timers.borrow_mut().expire(self.handle.now());
        self.run_tasks();
    }

    fn poll(&mut self, wait: Wait) {
        let mut io = self.handle.0.io.borrow_mut();
        io.turn(wait, &mut self.completed);
        self.handle.0.now.set(io.now());
    }

    fn earliest(&self, wait: Wait) -> Wait {
        match (wait, self.handle.0.timers.borrow().next()) {
            (Wait::No, _) => Wait::No,
            (wait, None) => wait,
            (Wait::Forever, Some(time)) => Wait::Until(time),
            (Wait::Until(limit), Some(time)) => Wait::Until(limit.min(time)),
        }
    }

    /// A short transfer goes on; a finished one goes to whom it belongs.
    fn deliver(&self, completion: Completion, root: &mut impl FnMut(Done)) {
        let Completion { token, op, result } = completion;
        if token == BELL {
            return;
        }
        let (op, result) = match (op, result) {
            (Some(mut op), Ok(moved)) if is_short(&op, moved) => match advance(&mut op, moved) {
                None => return self.handle.0.io.borrow_mut().submit(op, token),
                Some(result) => (Some(op), result),
            },
            (Some(mut op), Ok(code)) if matches!(op.kind, OpKind::Extent { .. }) => {
                op.set_extent(code);
                (Some(op), Ok(()))
            }
            (Some(mut op), Ok(moved)) if op.kind == OpKind::Receive => {
                op.len = moved;
                (Some(op), Ok(()))
            }
            (op, result) => (op, result.map(|_| ())),
        };
        if token.0 < OWN {
            // Cookies are u32 by construction.
            root(Done { cookie: u32::try_from(token.0).unwrap_or(u32::MAX), op, result });
        } else if let Some(op) = op {
            self.handle.0.waiting.borrow_mut().finish(token, op, result);
        }
    }

    /// Runs tasks until none is ready; whether any was.
    fn run_tasks(&mut self) -> bool {
        let mut ran = false;
        loop {
            let spawned = std::mem::take(&mut *self.handle.0.spawned.borrow_mut());
            self.tasks.add(spawned);
            let Some((id, mut task, waker)) = self.tasks.next_ready() else { return ran };
            ran = true;
            match task.as_mut().poll(&mut Context::from_waker(&waker)) {
                std::task::Poll::Ready(()) => self.tasks.end(id),
                std::task::Poll::Pending => self.tasks.keep(id, task),
            }
        }
    }
}

fn is_short(op: &Op, moved: u64) -> bool {
    matches!(op.kind, OpKind::Read | OpKind::Write { .. } | OpKind::Send) && moved < op.memory.len()
}

/// Leaves of a short transfer what is still to be moved; how it has ended if nothing is. A read at the end of the file
/// ends as zeroes.
fn advance(op: &mut Op, moved: u64) -> Option<Result<(), IoError>> {
    if moved == 0 {
        return Some(match op.kind {
            OpKind::Read => {
                let left = op.memory.len();
                op.memory.fill_zero(0, left);
                Ok(())
            }
            OpKind::Send => Err(IoError::Io),
            // A write that moves nothing and gives no reason: full, as write(2) says of it.
            _ => Err(IoError::NoSpace),
        });
    }
    op.memory.advance(moved);
    op.len -= moved;
    if op.kind != OpKind::Send {
        op.offset += moved;
    }
    None
}

#[cfg(test)]
mod tests;
