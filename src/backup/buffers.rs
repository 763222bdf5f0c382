//! Memory for what is read and written, used again and again: new memory costs as much as what is done with it.

use super::layer::PIECE;
use std::cell::RefCell;
use std::rc::Rc;
use tidemark_backend::error::IoError;
use tidemark_backend::io::{Buf, Memory, byte_count};
use tidemark_backend::node::{Kind, Node, Request};
use tidemark_backend::reactor::Handle;

/// Buffers of [`PIECE`] bytes each that are not in use.
#[derive(Clone, Default)]
pub struct Buffers(Rc<RefCell<Vec<Buf>>>);

/// What was read.
pub struct Piece {
    buf: Buf,
    len: u64,
}

impl Piece {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buf.as_slice().get(..byte_count(self.len)).unwrap_or_default()
    }

    /// The bytes, to be written.
    pub fn into_memory(self) -> Memory {
        memory(self.buf, self.len)
    }
}

/// The first `len` bytes of a buffer.
fn memory(buf: Buf, len: u64) -> Memory {
    let mut memory = Memory::from(buf);
    if memory.len() > len {
        memory.narrow(0, len);
    }
    memory
}

impl Buffers {
    /// Reads bytes of a node, [`PIECE`] of them at most.
    ///
    /// # Errors
    /// The storage's.
    pub async fn read(&self, io: &Handle, node: &Node, offset: u64, len: u64) -> Result<Piece, IoError> {
        let spare = self.0.borrow_mut().pop();
        let memory = memory(spare.unwrap_or_else(|| Buf::mapped(byte_count(PIECE))), len);
        let (memory, result) = node.handle(io, Request { kind: Kind::Read, fua: false, offset, len, memory }).await;
        match (memory.into_buf(), result) {
            (Some(buf), Ok(())) => Ok(Piece { buf, len }),
            (buf, result) => {
                buf.into_iter().for_each(|buf| self.keep(buf));
                Err(result.err().unwrap_or(IoError::Io))
            }
        }
    }

    /// Keeps memory for the next piece.
    pub fn keep(&self, buf: Buf) {
        self.0.borrow_mut().push(buf);
    }

    /// Keeps the memory of a piece that has been looked at.
    pub fn done(&self, piece: Piece) {
        self.keep(piece.buf);
    }
}
