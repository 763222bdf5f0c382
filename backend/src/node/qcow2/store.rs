//! The file below an image, as its metadata is read and written: whole tables, in the file's byte order.

use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::node::link::Link;
use crate::node::{Kind, Node, Request};
use crate::reactor::Handle;
use std::sync::Arc;

/// Bytes by which a file grows, at least.
const GROWTH: u64 = 1 << 20;
/// And at most; in between it is an eighth of what it has. What is ahead is a hole.
const GROWTH_MOST: u64 = 64 << 20;

/// The node that holds an image's metadata.
#[derive(Clone)]
pub struct Store(Arc<Link>);

impl Store {
    /// Metadata in `file`.
    pub fn new(file: Arc<Node>) -> Self {
        Self(Arc::new(Link::new(file)))
    }

    /// The node.
    pub fn node(&self) -> Arc<Node> {
        self.0.get()
    }

    /// The way to it.
    pub fn link(&self) -> &Arc<Link> {
        &self.0
    }

    /// Bytes from `offset` on. What is past the end of the file is zero, as for QEMU: a new image may end before its L1
    /// table does.
    ///
    /// # Errors
    /// The storage's.
    pub async fn read(&self, io: &Handle, offset: u64, len: u64) -> Result<Buf, IoError> {
        let mut memory = Memory::from(Buf::new(byte_count(len)));
        let there = len.min(self.node().length().saturating_sub(offset));
        if there == 0 {
            return memory.into_buf().ok_or(IoError::Io);
        }
        memory.narrow(0, there);
        let request = Request { kind: Kind::Read, fua: false, offset, len: there, memory };
        let (memory, result) = self.node().handle(io, request).await;
        result?;
        memory.into_buf().ok_or(IoError::Io)
    }

    /// Writes `bytes` at `offset`; not stable before [`Store::flush`]. The file must reach that far.
    ///
    /// # Errors
    /// The storage's.
    pub async fn write(&self, io: &Handle, offset: u64, bytes: Buf) -> Result<(), IoError> {
        let memory = Memory::from(bytes);
        let request = Request { kind: Kind::Write, fua: false, offset, len: memory.len(), memory };
        self.node().handle(io, request).await.1
    }

    /// Makes the file reach to `end` at least, some way ahead so that not every cluster asks; new bytes are zeroes.
    ///
    /// # Errors
    /// The storage's; [`IoError::NoSpace`] when it cannot be that long.
    pub async fn grow(&self, io: &Handle, end: u64) -> Result<(), IoError> {
        if end <= self.node().length() {
            return Ok(());
        }
        let step = (self.node().length() / 8).clamp(GROWTH, GROWTH_MOST).next_power_of_two();
        let ahead = end.checked_next_multiple_of(step).ok_or(IoError::NoSpace)?;
        match self.node().grow(io, ahead).await {
            // A whole step may be too much where what is needed is not.
            Err(_) => self.node().grow(io, end).await,
            done => done,
        }
    }

    /// Makes all that was written stable.
    ///
    /// # Errors
    /// The storage's; the file takes no more writes then.
    pub async fn flush(&self, io: &Handle) -> Result<(), IoError> {
        let request = Request { kind: Kind::Flush, fua: false, offset: 0, len: 0, memory: Memory::empty() };
        self.node().handle(io, request).await.1
    }

    /// A table of big-endian words.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn read_words(&self, io: &Handle, offset: u64, count: usize) -> Result<Vec<u64>, IoError> {
        let buf = self.read(io, offset, count as u64 * 8).await?;
        let words = buf.as_slice().as_chunks().0;
        Ok(words.iter().copied().map(u64::from_be_bytes).collect())
    }

    /// Writes a table of words, big-endian.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn write_words(&self, io: &Handle, offset: u64, words: &[u64]) -> Result<(), IoError> {
        let mut buf = Buf::new(words.len() * 8);
        for (bytes, word) in buf.as_mut_slice().as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
        self.write(io, offset, buf).await
    }
}
