//! Memory of finished requests, kept for the next ones of the same length: zeroing and mapping it anew costs more than
//! reading into it.

use super::limits::BYTES_MAX;
use crate::io::{Buf, Memory, byte_count};
use std::cell::{Cell, RefCell};

/// Memory of this length goes back to the system with the client. On the heap, what many clients had between them would
/// stay with the daemon.
const MAPPED_MIN: u64 = 64 * 1024;

/// See the module's description. Of one connection, and at most [`BYTES_MAX`].
#[derive(Default)]
pub struct Buffers {
    spare: RefCell<Vec<Memory>>,
    bytes: Cell<u64>,
}

impl Buffers {
    /// Memory of `len` bytes with anything in it that this connection has moved.
    pub fn take(&self, len: u64) -> Memory {
        let mut spare = self.spare.borrow_mut();
        // The one used last is the one that caches know.
        match spare.iter().rposition(|memory| memory.len() == len) {
            Some(place) => {
                self.bytes.set(self.bytes.get() - len);
                spare.swap_remove(place)
            }
            None if len >= MAPPED_MIN => Buf::mapped(byte_count(len)).into(),
            None => Buf::new(byte_count(len)).into(),
        }
    }

    /// Memory that is no longer needed, whatever part of it is in view.
    pub fn give(&self, memory: Memory) {
        let Some(buf) = memory.into_buf() else { return };
        let memory = Memory::from(buf);
        let bytes = self.bytes.get() + memory.len();
        // What is not asked for any more makes room for what is.
        if bytes > BYTES_MAX {
            self.clear();
        } else {
            self.bytes.set(bytes);
            self.spare.borrow_mut().push(memory);
        }
    }

    /// Whether it keeps so much that an idle connection should not.
    pub fn is_much(&self) -> bool {
        self.bytes.get() > 64 * 1024
    }

    /// Keeps nothing.
    pub fn clear(&self) {
        self.spare.borrow_mut().clear();
        self.bytes.set(0);
    }
}

/// All of a buffer in view again, of which an operation may have left only what came last.
pub fn whole(memory: Memory, len: u64) -> Memory {
    if memory.len() == len {
        return memory;
    }
    memory.into_buf().map_or(Memory::empty(), Memory::from)
}
