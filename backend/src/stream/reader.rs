//! The half that reads: a buffer that one receive fills with as much as has come.

use super::{Link, SecureError};
use crate::error::IoError;
use crate::io::{Buf, Memory, Op, byte_count};
use std::ops::Range;
use std::rc::Rc;

/// Bytes of the buffer: what a connection takes while nothing is asked on it.
const BUFFER: usize = 32 * 1024;
/// What is still to come of a payload and is at least as long goes straight into its own memory.
const STRAIGHT: u64 = 16 * 1024;

/// What comes on a connection. A read whose future is dropped before it has ended takes the connection with it.
pub struct Reader {
    pub(super) link: Rc<Link>,
    /// Plaintext.
    buffer: Window,
    /// What came, under TLS.
    sealed: Option<Window>,
}

/// A buffer of which a part is filled. The kernel has it while more is coming.
struct Window {
    memory: Option<Memory>,
    filled: Range<usize>,
}

impl Window {
    fn new() -> Self {
        Self { memory: Some(Buf::copy_of(&[0; BUFFER]).into()), filled: 0..0 }
    }

    /// Takes some filled bytes.
    fn drain(&mut self, into: &mut [u8]) -> usize {
        let len = into.len().min(self.filled.len());
        if let Some(memory) = &self.memory {
            memory.copy_to(self.filled.start as u64, &mut into[..len]);
        }
        self.filled.start += len;
        len
    }

    /// Fills it anew with what comes; whether anything did.
    async fn receive(&mut self, link: &Link) -> Result<bool, IoError> {
        let memory = self.memory.take().ok_or(IoError::Io)?;
        let (op, result) = link.io.run(Op::receive(link.socket.id(), memory)).await;
        self.memory = Some(op.memory);
        result?;
        self.filled = 0..byte_count(op.len).min(BUFFER);
        Ok(!self.filled.is_empty())
    }
}

impl Reader {
    pub(super) fn new(link: Rc<Link>) -> Self {
        let sealed = link.crypt.is_some().then(Window::new);
        Self { link, buffer: Window::new(), sealed }
    }

    /// Whether bytes have come that nobody has asked for yet.
    pub(super) fn is_filled(&self) -> bool {
        !self.buffer.filled.is_empty()
    }

    /// Waits for the next message; false if the other side has ended the connection instead.
    ///
    /// # Errors
    /// The connection's.
    pub async fn has_more(&mut self) -> Result<bool, IoError> {
        Ok(self.is_filled() || self.fill().await?)
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// The connection's, or it ended before.
    pub async fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), IoError> {
        let mut done = 0;
        while done < bytes.len() {
            if !self.has_more().await? {
                return Err(IoError::Io);
            }
            done += self.buffer.drain(&mut bytes[done..]);
        }
        Ok(())
    }

    /// Fills `memory`, which comes back in any case.
    pub async fn read_memory(&mut self, mut memory: Memory) -> (Memory, Result<(), IoError>) {
        let mut done = 0;
        while done < memory.len() {
            let left = memory.len() - done;
            let step = if !self.is_filled() && self.sealed.is_none() && left >= STRAIGHT {
                let step;
                (memory, step) = self.read_straight(memory, done).await;
                step
            } else {
                self.read_buffered(&mut memory, done).await
            };
            match step {
                Ok(0) => return (memory, Err(IoError::Io)),
                Ok(step) => done += step,
                Err(error) => return (memory, Err(error)),
            }
        }
        (memory, Ok(()))
    }

    /// Passes over `len` bytes.
    ///
    /// # Errors
    /// The connection's, or it ended before.
    pub async fn skip(&mut self, len: u64) -> Result<(), IoError> {
        let mut left = len;
        while left > 0 {
            if !self.has_more().await? {
                return Err(IoError::Io);
            }
            let step = left.min(self.buffer.filled.len() as u64);
            self.buffer.filled.start += byte_count(step);
            left -= step;
        }
        Ok(())
    }

    /// Receives into `memory` from `at` on; how much has come, 0 at the end.
    async fn read_straight(&mut self, mut memory: Memory, at: u64) -> (Memory, Result<u64, IoError>) {
        memory.enter();
        memory.narrow(at, memory.len() - at);
        let (op, result) = self.link.io.run(Op::receive(self.link.socket.id(), memory)).await;
        let mut memory = op.memory;
        memory.leave();
        (memory, result.map(|()| op.len))
    }

    async fn read_buffered(&mut self, memory: &mut Memory, at: u64) -> Result<u64, IoError> {
        if !self.has_more().await? {
            return Ok(0);
        }
        let Window { memory: buffered, filled } = &mut self.buffer;
        let len = (memory.len() - at).min(filled.len() as u64);
        let mut piece = [0; 4096];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(piece.len() as u64);
            let piece = &mut piece[..byte_count(step)];
            buffered.iter().for_each(|buffered| buffered.copy_to(filled.start as u64, piece));
            memory.copy_from(at + done, piece);
            filled.start += piece.len();
            done += step;
        }
        Ok(len)
    }

    /// Has something in the buffer, which is empty; false at the end.
    async fn fill(&mut self) -> Result<bool, IoError> {
        match self.sealed {
            None => self.buffer.receive(&self.link).await,
            Some(_) => self.open().await,
        }
    }

    /// The same under TLS.
    async fn open(&mut self) -> Result<bool, IoError> {
        loop {
            if let Some(len) = self.take_plain()? {
                return Ok(len > 0);
            }
            if !self.take_sealed().await.map_err(|_| IoError::Io)? {
                return Err(IoError::Io);
            }
            self.link.answer();
        }
    }

    /// Takes plaintext that the session has; how much, if it is not for more to come.
    fn take_plain(&mut self) -> Result<Option<usize>, IoError> {
        let (Some(crypt), Some(memory)) = (&self.link.crypt, &mut self.buffer.memory) else { return Err(IoError::Io) };
        let mut plain = [0; 4096];
        let read = crypt.borrow_mut().read(&mut plain)?;
        if let Some(len) = read {
            memory.copy_from(0, &plain[..len]);
            self.buffer.filled = 0..len;
        }
        Ok(read)
    }

    /// Hands the session what has come, once something has; false if the connection ended.
    async fn take_sealed(&mut self) -> Result<bool, SecureError> {
        let (Some(sealed), Some(crypt)) = (&mut self.sealed, &self.link.crypt) else { return Ok(false) };
        if sealed.filled.is_empty() && !sealed.receive(&self.link).await? {
            return Ok(false);
        }
        let mut bytes = [0; 4096];
        let start = sealed.filled.start;
        let len = sealed.drain(&mut bytes);
        let taken = crypt.borrow_mut().take(&bytes[..len]);
        sealed.filled.start = start + taken.as_ref().map_or(len, |taken| *taken);
        Ok(taken? > 0)
    }

    /// Makes the connection one of TLS.
    pub(super) async fn shake_hands(&mut self) -> Result<(), SecureError> {
        let link = self.link.clone();
        let Some(crypt) = &link.crypt else { return Ok(()) };
        while crypt.borrow().is_handshaking() {
            let output = crypt.borrow_mut().output();
            link.send(output).await?;
            if !crypt.borrow().is_handshaking() {
                break;
            }
            let taken = self.take_sealed().await;
            if let Err(SecureError::Tls(_)) = &taken {
                // The alert says what is wrong with it; whether it arrives changes nothing.
                let alert = crypt.borrow_mut().output();
                let _ = link.send(alert).await;
            }
            if !taken? {
                return Err(SecureError::Io(IoError::Io));
            }
        }
        let output = crypt.borrow_mut().output();
        Ok(link.send(output).await?)
    }
}
