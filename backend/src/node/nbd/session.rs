//! One connection in the transmission phase: commands under way by cookie, and a task that takes the replies.
//!
//! Whatever the server says that it may not say ends the connection, and every command on it with the same reason.

use super::negotiate::Agreed;
use super::replies;
use crate::error::IoError;
use crate::io::Memory;
use crate::nbd_wire::transmission::{Command, Extent, Request};
use crate::stream::{Reader, Writer};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Why a connection has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It was cut; the same command may be sent on another.
    Cut,
    /// The server does not keep to the protocol: there is nothing to be hoped for.
    Protocol(String),
}

/// A command whose reply has not come, or not wholly.
pub(super) struct Pending {
    pub(super) command: Command,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// What is read goes here; taken while it does.
    pub(super) memory: Option<Memory>,
    /// Bytes of a read that have come.
    pub(super) covered: u64,
    pub(super) extents: Vec<Extent>,
    /// The first error, if there was one.
    pub(super) error: Option<IoError>,
    ended: Option<Result<(), Lost>>,
    waker: Option<Waker>,
}

/// A reply: the memory of a read, the extents of a block status, and what the server says of the command.
pub(super) struct Reply {
    pub(super) memory: Memory,
    pub(super) extents: Vec<Extent>,
    pub(super) result: Result<(), IoError>,
}

/// A connection.
pub(super) struct Session {
    pub(super) agreed: Agreed,
    writer: Writer,
    pending: RefCell<HashMap<u64, Pending>>,
    next: Cell<u64>,
    lost: RefCell<Option<Lost>>,
}

impl Session {
    pub(super) fn new(writer: Writer, agreed: Agreed) -> Rc<Self> {
        let (pending, next, lost) = (RefCell::default(), Cell::new(1), RefCell::default());
        Rc::new(Self { agreed, writer, pending, next, lost })
    }

    /// Commands under way.
    pub(super) fn load(&self) -> usize {
        self.pending.borrow().len()
    }

    /// Takes replies until the connection ends; why it did.
    pub(super) async fn receive(&self, mut reader: Reader) -> Lost {
        let lost = loop {
            match replies::take(self, &mut reader).await {
                Ok(()) => {}
                Err(lost) => break lost,
            }
        };
        self.writer.shutdown();
        *self.lost.borrow_mut() = Some(lost.clone());
        for pending in self.pending.borrow_mut().values_mut() {
            pending.end(Err(lost.clone()));
        }
        lost
    }

    /// Sends a command and waits for its reply. The memory comes back in any case.
    pub(super) async fn exchange(
        &self,
        command: (Command, u16),
        range: (u64, u64),
        memory: Memory,
    ) -> Result<Reply, (Memory, Lost)> {
        if let Some(lost) = &*self.lost.borrow() {
            return Err((memory, lost.clone()));
        }
        let cookie = self.next.replace(self.next.get().wrapping_add(1));
        let ((command, flags), (offset, len)) = (command, range);
        let head = Request { flags, command, cookie, offset, len }.encode(self.agreed.headers);
        let (target, payload) =
            if command == Command::Read { (memory, Memory::empty()) } else { (Memory::empty(), memory) };
        self.pending.borrow_mut().insert(cookie, Pending::new(command, offset, len, target));
        let (payload, sent) = self.writer.write(&head, payload).await;
        if sent.is_err() {
            // The reader finds the end, too, and says whose fault it is.
            self.writer.shutdown();
        }
        let ended = self.ended(cookie).await;
        let Some(mut done) = self.pending.borrow_mut().remove(&cookie) else { return Err((payload, Lost::Cut)) };
        let memory = if command == Command::Read { done.memory.take().unwrap_or(Memory::empty()) } else { payload };
        match ended {
            Ok(()) => Ok(Reply { memory, extents: done.extents, result: done.error.map_or(Ok(()), Err) }),
            Err(lost) => Err((memory, lost)),
        }
    }

    async fn ended(&self, cookie: u64) -> Result<(), Lost> {
        std::future::poll_fn(|cx| match self.pending.borrow_mut().get_mut(&cookie) {
            None => Poll::Ready(Err(Lost::Cut)),
            Some(Pending { ended: Some(ended), .. }) => Poll::Ready(ended.clone()),
            Some(pending) => {
                pending.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Looks at a command under way.
    ///
    /// # Errors
    /// There is none with this cookie.
    pub(super) fn with<T>(&self, cookie: u64, look: impl FnOnce(&mut Pending) -> Result<T, Lost>) -> Result<T, Lost> {
        match self.pending.borrow_mut().get_mut(&cookie) {
            Some(pending) if pending.ended.is_none() => look(pending),
            _ => Err(Lost::Protocol("unexpected cookie value".into())),
        }
    }

    /// Tells the server that nobody asks any more, and ends the connection.
    pub(super) async fn leave(&self) {
        let goodbye = Request { flags: 0, command: Command::Disconnect, cookie: 0, offset: 0, len: 0 };
        // Whether it hears that changes nothing.
        let _ = self.writer.write(&goodbye.encode(self.agreed.headers), Memory::empty()).await;
        let _ = self.writer.finish().await;
        self.writer.shutdown();
    }

    /// Ends the connection at once.
    pub(super) fn cut(&self) {
        self.writer.shutdown();
    }
}

impl Pending {
    fn new(command: Command, offset: u64, len: u64, memory: Memory) -> Self {
        let memory = Some(memory);
        Self { command, offset, len, memory, covered: 0, extents: Vec::new(), error: None, ended: None, waker: None }
    }

    pub(super) fn end(&mut self, result: Result<(), Lost>) {
        if self.ended.is_none() {
            self.ended = Some(result);
        }
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}
