//! What a change journal is written to: a file, which is there after the power was cut, or memory that outlives the
//! process, which is not and costs no I/O.

use crate::error::IoError;
use crate::io::{Buf, Memory, SharedWords, byte_count};
use crate::node::{Driver, Kind, Node, Request};
use crate::reactor::Handle;
use std::sync::Arc;
use tidemark_cbt::journal::{self, Head, SECTOR};

/// Bytes of a word of shared memory.
const WORD: usize = 8;

/// Words of memory that outlives the process.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Where they are.
    pub words: Arc<SharedWords>,
    /// The first of them.
    pub first: usize,
    /// How many there are.
    pub count: usize,
}

/// Where a journal is.
#[derive(Clone)]
pub enum Medium {
    /// A file.
    File(Arc<Node>),
    /// Memory.
    Shared(Shared),
}

impl std::fmt::Display for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(node) => write!(f, "'{}'", node.name()),
            Self::Shared(_) => f.write_str("in memory"),
        }
    }
}

impl Medium {
    /// Whether it is there after the power was cut.
    pub fn survives_power(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// The head that counts, if there is one that can be read.
    pub(super) async fn head(&self, io: &Handle) -> Option<Head> {
        Head::newest(&self.read(io, 0, 2 * SECTOR).await.ok()?)
    }

    /// The sectors of so many pairs; fewer if the medium ends before.
    pub(super) async fn sectors(&self, io: &Handle, pairs: u64) -> Result<Vec<u8>, IoError> {
        let start = journal::place(0, 0);
        self.read(io, start, byte_count(journal::bytes(pairs) - start)).await
    }

    /// Makes it at least so long.
    pub(super) async fn grow(&self, io: &Handle, bytes: u64) -> Result<(), IoError> {
        match self {
            Self::File(node) if node.length() < bytes => node.grow(io, bytes).await,
            Self::File(_) => Ok(()),
            Self::Shared(shared) if byte_count(bytes) <= shared.count * WORD => Ok(()),
            Self::Shared(_) => Err(IoError::NoSpace),
        }
    }

    /// Writes whole sectors; stable after [`Medium::flush`].
    pub(super) async fn write(&self, io: &Handle, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        match self {
            Self::File(node) => {
                let mut buf = Buf::new(bytes.len());
                buf.as_mut_slice().copy_from_slice(bytes);
                request(node, io, Kind::Write, offset, buf.into()).await.1
            }
            Self::Shared(shared) => {
                let first = shared.first + byte_count(offset) / WORD;
                for (at, word) in (first..).zip(bytes.as_chunks().0) {
                    shared.words.store(at, u64::from_le_bytes(*word));
                }
                Ok(())
            }
        }
    }

    /// Makes what was written stable.
    pub(super) async fn flush(&self, io: &Handle) -> Result<(), IoError> {
        match self {
            Self::File(node) => request(node, io, Kind::Flush, 0, Memory::empty()).await.1,
            Self::Shared(_) => Ok(()),
        }
    }

    /// Removes the file.
    pub fn remove(&self) {
        if let Self::File(node) = self
            && let Driver::File(file) = node.driver()
            && let Err(error) = std::fs::remove_file(file.path())
        {
            tracing::warn!(%error, path = file.path(), "a change journal that is not needed any more could not be removed");
        }
    }

    async fn read(&self, io: &Handle, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
        match self {
            Self::File(node) => {
                let len = len.min(byte_count(node.length().saturating_sub(offset)));
                if len == 0 {
                    return Ok(Vec::new());
                }
                let (memory, result) = request(node, io, Kind::Read, offset, Buf::new(len).into()).await;
                result?;
                Ok(memory.into_buf().ok_or(IoError::Io)?.as_slice().to_vec())
            }
            Self::Shared(shared) => {
                let first = byte_count(offset) / WORD;
                let words = (first..shared.count).take(len / WORD);
                Ok(words.flat_map(|at| shared.words.load(shared.first + at).to_le_bytes()).collect())
            }
        }
    }
}

async fn request(node: &Node, io: &Handle, kind: Kind, offset: u64, memory: Memory) -> (Memory, Result<(), IoError>) {
    let len = memory.len();
    node.handle(io, Request { kind, fua: false, offset, len, memory }).await
}
