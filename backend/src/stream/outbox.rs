//! What is to be sent: messages in order, and the task that sends as many together as are ready.

use super::Link;
use crate::error::IoError;
use crate::io::{Buf, Memory, Op};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

/// Bytes that are sent together, beyond the first message; a larger one goes alone.
const TOGETHER: u64 = 256 * 1024;
/// Messages that are sent together: two segments each are enough for those from one buffer.
const MESSAGES: usize = 256;

/// How a message is getting on.
pub(super) enum Delivery {
    Waits(Option<Waker>),
    Ended(Memory, Result<(), IoError>),
    /// Its writer has it back.
    Taken,
}

/// A message.
pub(super) struct Letter {
    pub(super) head: Memory,
    pub(super) payload: Memory,
    pub(super) delivery: Rc<RefCell<Delivery>>,
}

impl Letter {
    fn end(delivery: &RefCell<Delivery>, payload: Memory, result: Result<(), IoError>) {
        if let Delivery::Waits(Some(waker)) = delivery.replace(Delivery::Ended(payload, result)) {
            waker.wake();
        }
    }
}

/// Messages that wait.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Letter>,
    /// A task is sending.
    sending: bool,
    broken: bool,
}

impl Outbox {
    /// The next messages to be sent together.
    fn next(&mut self) -> Vec<Letter> {
        let mut len = 0;
        let mut letters = Vec::new();
        while let Some(letter) = self.waiting.front()
            && letters.len() < MESSAGES
        {
            len += letter.head.len() + letter.payload.len();
            if len > TOGETHER && !letters.is_empty() {
                break;
            }
            letters.extend(self.waiting.pop_front());
        }
        letters
    }
}

impl Link {
    /// Queues a message.
    pub(super) fn post(self: &Rc<Self>, letter: Letter) {
        if self.outbox.borrow().broken {
            return Letter::end(&letter.delivery, letter.payload, Err(IoError::Io));
        }
        self.outbox.borrow_mut().waiting.push_back(letter);
        self.start();
    }

    /// Sends what TLS has to say of its own accord.
    pub(super) fn answer(self: &Rc<Self>) {
        if self.crypt.as_ref().is_some_and(|crypt| crypt.borrow().wants_write()) {
            self.start();
        }
    }

    fn start(self: &Rc<Self>) {
        let link = self.clone();
        if !std::mem::replace(&mut self.outbox.borrow_mut().sending, true) {
            self.io.spawn(async move { link.send_all().await });
        }
    }

    async fn send_all(self: Rc<Self>) {
        loop {
            let letters = self.outbox.borrow_mut().next();
            let answers = self.crypt.as_ref().is_some_and(|crypt| crypt.borrow().wants_write());
            if letters.is_empty() && !answers {
                self.outbox.borrow_mut().sending = false;
                return;
            }
            let broken = self.outbox.borrow().broken;
            let result = match &self.crypt {
                _ if broken => Err(letters),
                None => self.send_plain(letters).await,
                Some(_) => self.send_sealed(letters).await,
            };
            if let Err(letters) = result {
                self.outbox.borrow_mut().broken = true;
                letters.into_iter().for_each(|letter| Letter::end(&letter.delivery, letter.payload, Err(IoError::Io)));
            }
        }
    }

    /// Sends messages as they are.
    ///
    /// # Errors
    /// The messages, of which nobody knows what has arrived.
    async fn send_plain(&self, letters: Vec<Letter>) -> Result<(), Vec<Letter>> {
        let (mut parts, mut deliveries) = (Vec::new(), Vec::new());
        for Letter { head, payload, delivery } in letters {
            parts.extend([head, payload]);
            deliveries.push(delivery);
        }
        let (op, result) = self.io.run(Op::send(self.socket.id(), Memory::gather(parts))).await;
        let mut parts = op.memory.scatter().into_iter();
        let mut failed = Vec::new();
        for delivery in deliveries {
            let (Some(head), Some(payload)) = (parts.next(), parts.next()) else { break };
            match result {
                Ok(()) => Letter::end(&delivery, payload, Ok(())),
                Err(_) => failed.push(Letter { head, payload, delivery }),
            }
        }
        if result.is_ok() { Ok(()) } else { Err(failed) }
    }

    /// Sends messages under TLS, and whatever else it has to say.
    async fn send_sealed(&self, letters: Vec<Letter>) -> Result<(), Vec<Letter>> {
        for (at, letter) in letters.iter().enumerate() {
            let last = at + 1 == letters.len();
            if self.seal(&letter.head, false).await.is_err() || self.seal(&letter.payload, last).await.is_err() {
                return Err(letters);
            }
        }
        if letters.is_empty() && self.send_output().await.is_err() {
            return Err(letters);
        }
        letters.into_iter().for_each(|letter| Letter::end(&letter.delivery, letter.payload, Ok(())));
        Ok(())
    }

    /// Seals memory; sends as it goes if there is much, and at the end if it is the last.
    async fn seal(&self, memory: &Memory, last: bool) -> Result<(), IoError> {
        let Some(crypt) = &self.crypt else { return Err(IoError::Io) };
        let mut at = 0;
        while at < memory.len() {
            at += crypt.borrow_mut().seal(memory, at)?;
            if at < memory.len() {
                self.send_output().await?;
            }
        }
        if last { self.send_output().await } else { Ok(()) }
    }

    async fn send_output(&self) -> Result<(), IoError> {
        let output = self.crypt.as_ref().map(|crypt| crypt.borrow_mut().output());
        self.send(output.unwrap_or_default()).await
    }

    /// Sends bytes as they are, past the queue.
    pub(super) async fn send(&self, bytes: Vec<u8>) -> Result<(), IoError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.io.run(Op::send(self.socket.id(), Buf::copy_of(&bytes).into())).await.1
    }
}
