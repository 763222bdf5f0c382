//! The connections to one server, and what becomes of commands while there are none.
//!
//! As with QEMU: a connection that is cut is made anew, at once, then after 1, 2, 4 to 16 seconds. Commands wait for
//! that for `reconnect-delay` and are sent again; after that, or without one, they fail with EIO, and so does each new
//! one, which has another attempt made. A server that breaks the protocol is not asked again.

use super::dial::Dial;
use super::job::{Done, Job};
use super::negotiate::{Agreed, negotiate};
use super::options::NbdClientOptions;
use super::session::{Lost, Session};
use crate::error::IoError;
use crate::io::{Memory, Socket};
use crate::nbd_wire::transmission::export_flags;
use crate::reactor::Handle;
use crate::stream::{Reader, Stream};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// Commands under way on one connection: what servers take without letting anybody wait.
const DEPTH: usize = 16;
/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Nanoseconds between attempts at most.
const PAUSE_MAX: u64 = 16 * SECOND;
/// Nanoseconds that an attempt may take, up to the last byte of the handshake.
const ATTEMPT_MAX: u64 = 30 * SECOND;

/// Nanoseconds that a server is given to hear that it is not asked any more.
const GOODBYE_MAX: u64 = 2 * SECOND;

/// What commands can hope for while there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hope {
    /// A connection that is being made.
    Waits,
    /// None before the next command.
    Fails,
    /// None at all.
    Gone,
}

pub(super) struct Core {
    io: Handle,
    options: Arc<NbdClientOptions>,
    dial: Box<dyn Dial>,
    /// Whether the node is to be written.
    writes: bool,
    sessions: RefCell<Vec<Rc<Session>>>,
    hope: Cell<Hope>,
    /// What was agreed on first.
    agreed: OnceCell<Agreed>,
    dialing: Cell<bool>,
    growing: Cell<bool>,
    /// How many waits for a connection have ended: their timers mean nothing any more.
    waits: Cell<u64>,
    timed: Cell<bool>,
    wakers: RefCell<VecDeque<Waker>>,
    jobs: Cell<usize>,
}

impl Core {
    pub(super) fn new(io: &Handle, options: Arc<NbdClientOptions>, dial: Box<dyn Dial>, writes: bool) -> Rc<Self> {
        Rc::new(Self {
            io: io.clone(),
            options,
            dial,
            writes,
            sessions: RefCell::default(),
            hope: Cell::new(Hope::Fails),
            agreed: OnceCell::new(),
            dialing: Cell::new(false),
            growing: Cell::new(false),
            waits: Cell::new(0),
            timed: Cell::new(false),
            wakers: RefCell::default(),
            jobs: Cell::new(0),
        })
    }

    /// Makes the first connection, trying again until `open-timeout` is over.
    pub(super) async fn open(self: &Rc<Self>) -> Result<Agreed, String> {
        let limit = self.io.read_clock().saturating_add(nanoseconds(self.options.open_timeout));
        let mut pause = SECOND;
        loop {
            match self.connect(Some(limit)).await {
                Ok(agreed) => return Ok(agreed),
                Err(error) => {
                    let next = self.io.read_clock().saturating_add(pause);
                    if self.options.open_timeout.is_zero() || next >= limit {
                        return Err(error);
                    }
                    self.io.sleep_until(next).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Whether commands are under way.
    pub(super) fn is_busy(&self) -> bool {
        self.jobs.get() > 0
    }

    /// Runs a command to its end.
    pub(super) async fn run(self: Rc<Self>, job: Job) {
        self.jobs.set(self.jobs.get() + 1);
        let Job { command, flags, offset, len, buf, ticket } = job;
        let mut memory = buf.map_or(Memory::empty(), Memory::from);
        let (extents, result) = loop {
            let Some(session) = self.session().await else { break (Vec::new(), Err(IoError::Io)) };
            match session.exchange((command, flags), (offset, len), memory).await {
                Ok(reply) => {
                    memory = reply.memory;
                    self.wake_one();
                    break (reply.extents, reply.result);
                }
                Err((back, _)) => memory = back,
            }
            // Who reads the replies has been there first, or is there now: what is to be hoped for is known.
            self.lose(&session);
            if self.hope.get() != Hope::Waits && self.sessions.borrow().is_empty() {
                self.redial();
                break (Vec::new(), Err(IoError::Io));
            }
        };
        self.jobs.set(self.jobs.get() - 1);
        ticket.keep(Done { buf: memory.into_buf(), extents, result });
    }

    /// A connection with room; `None` if there is none to be hoped for.
    async fn session(self: &Rc<Self>) -> Option<Rc<Session>> {
        std::future::poll_fn(|cx| {
            let sessions = self.sessions.borrow();
            let idlest = sessions.iter().min_by_key(|session| session.load());
            if let Some(session) = idlest {
                self.grow(sessions.len(), session.load());
                if session.load() < DEPTH {
                    return Poll::Ready(Some(session.clone()));
                }
            } else {
                match self.hope.get() {
                    Hope::Gone => return Poll::Ready(None),
                    Hope::Fails => {
                        self.redial();
                        return Poll::Ready(None);
                    }
                    Hope::Waits => self.wait(),
                }
            }
            self.wakers.borrow_mut().push_back(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// One more connection, if the server can have it and those there are have work.
    fn grow(self: &Rc<Self>, count: usize, load: usize) {
        let most = usize::try_from(self.options.connections).unwrap_or(usize::MAX);
        let several = self.agreed.get().is_some_and(|agreed| agreed.can(export_flags::CAN_MULTI_CONN));
        if several && count < most && load >= 2 && !self.growing.replace(true) {
            let core = self.clone();
            self.io.spawn(async move {
                let refused = core.connect(None).await.is_err();
                // A server that has enough is asked again when it can be hoped that others have gone.
                if refused {
                    core.io.sleep_until(core.io.read_clock().saturating_add(60 * SECOND)).await;
                }
                core.growing.set(false);
            });
        }
    }

    /// The time that commands wait begins with the first of them.
    fn wait(self: &Rc<Self>) {
        self.redial();
        if !self.timed.replace(true) {
            let (core, wait) = (self.clone(), self.waits.get());
            let limit = self.io.read_clock().saturating_add(nanoseconds(self.options.reconnect_delay));
            self.io.spawn(async move {
                core.io.sleep_until(limit).await;
                if core.waits.get() == wait && core.hope.get() == Hope::Waits {
                    core.settle(Hope::Fails);
                }
            });
        }
    }

    /// Has a connection made, if nobody is about it.
    fn redial(self: &Rc<Self>) {
        if self.hope.get() == Hope::Gone || self.dialing.replace(true) {
            return;
        }
        let core = self.clone();
        self.io.spawn(async move {
            let mut pause = SECOND;
            while core.hope.get() != Hope::Gone && core.sessions.borrow().is_empty() {
                let Err(error) = core.connect(None).await else { break };
                if pause == SECOND {
                    tracing::warn!(server = core.options.uri(), error, "the NBD server cannot be reached");
                }
                core.io.sleep_until(core.io.read_clock().saturating_add(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            core.dialing.set(false);
        });
    }

    /// One attempt at a connection, that takes no longer than until `limit`.
    async fn connect(self: &Rc<Self>, limit: Option<u64>) -> Result<Agreed, String> {
        let patience = self.io.read_clock().saturating_add(ATTEMPT_MAX);
        let limit = limit.filter(|_| !self.options.open_timeout.is_zero());
        let patience = limit.map_or(patience, |limit| limit.min(patience));
        let socket = Arc::new(self.dial_until(patience).await?);
        let (io, watched) = (self.io.clone(), Arc::downgrade(&socket));
        let through = Rc::new(Cell::new(false));
        let is_through = through.clone();
        self.io.spawn(async move {
            io.sleep_until(patience).await;
            if !is_through.get() {
                watched.upgrade().iter().for_each(|socket| socket.shutdown());
            }
        });
        let negotiated = negotiate(Stream::plain(&self.io, socket.clone()), &self.options).await;
        through.set(true);
        let checked = negotiated.and_then(|(stream, agreed)| self.check(agreed).map(|()| (stream, agreed)));
        let (stream, agreed) = checked.inspect_err(|_| socket.shutdown())?;
        self.begin(stream, agreed);
        Ok(agreed)
    }

    async fn dial_until(&self, limit: u64) -> Result<Socket, String> {
        let mut dialing = self.dial.dial();
        let mut patience = pin!(self.io.sleep_until(limit));
        std::future::poll_fn(|cx| match dialing.as_mut().poll(cx) {
            Poll::Ready(dialed) => Poll::Ready(dialed),
            Poll::Pending => {
                let text = || Err(format!("Failed to connect to '{}': Connection timed out", self.options.uri()));
                patience.as_mut().poll(cx).map(|()| text())
            }
        })
        .await
    }

    /// Whether it is still the disk that it was.
    fn check(&self, agreed: Agreed) -> Result<(), String> {
        if self.writes && agreed.can(export_flags::READ_ONLY) && self.agreed.get().is_some() {
            return Err("NBD export is read-only".to_owned());
        }
        let first = self.agreed.get().unwrap_or(&agreed);
        let shown = |agreed: &Agreed| (agreed.size, agreed.minimum, agreed.maximum, agreed.context.is_some());
        match shown(first) == shown(&agreed) && first.flags == agreed.flags {
            true => Ok(()),
            false => Err("The server's export is not what it was when the node was opened".to_owned()),
        }
    }

    fn begin(self: &Rc<Self>, stream: Stream, agreed: Agreed) {
        let Stream { reader, writer } = stream;
        let session = Session::new(writer, agreed);
        if self.hope.get() == Hope::Gone {
            return session.cut();
        }
        let _ = self.agreed.set(agreed);
        self.sessions.borrow_mut().push(session.clone());
        let core = self.clone();
        self.io.spawn(async move { core.receive(session, reader).await });
        self.settle(self.hope_after_loss());
    }

    async fn receive(self: Rc<Self>, session: Rc<Session>, reader: Reader) {
        let lost = session.receive(reader).await;
        match lost {
            Lost::Protocol(reason) => {
                tracing::error!(server = self.options.uri(), reason, "the NBD server does not keep to the protocol");
                self.end();
            }
            Lost::Cut => self.lose(&session),
        }
    }

    fn hope_after_loss(&self) -> Hope {
        if self.options.reconnect_delay.is_zero() { Hope::Fails } else { Hope::Waits }
    }

    /// A connection has ended.
    fn lose(self: &Rc<Self>, session: &Rc<Session>) {
        let known = self.sessions.borrow().len();
        self.sessions.borrow_mut().retain(|other| !Rc::ptr_eq(other, session));
        if self.sessions.borrow().len() < known {
            self.wake_all();
        }
    }

    /// Nobody is asked any more.
    pub(super) fn end(self: &Rc<Self>) {
        self.settle(Hope::Gone);
        self.sessions.take().iter().for_each(|session| session.cut());
    }

    /// Leaves the server, in peace.
    pub(super) async fn leave(self: &Rc<Self>) {
        let sessions = self.sessions.take();
        self.settle(Hope::Gone);
        let (io, impatient) = (self.io.clone(), sessions.clone());
        self.io.spawn(async move {
            io.sleep_until(io.read_clock().saturating_add(GOODBYE_MAX)).await;
            impatient.iter().for_each(|session| session.cut());
        });
        for session in sessions {
            session.leave().await;
        }
    }

    fn settle(&self, hope: Hope) {
        if self.hope.get() != Hope::Gone {
            self.hope.set(hope);
        }
        self.waits.set(self.waits.get() + 1);
        self.timed.set(false);
        self.wake_all();
    }

    fn wake_all(&self) {
        self.wakers.take().into_iter().for_each(Waker::wake);
    }

    /// There is room for one more.
    fn wake_one(&self) {
        let waker = self.wakers.borrow_mut().pop_front();
        waker.into_iter().for_each(Waker::wake);
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
