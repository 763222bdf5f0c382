//! The one seam to the kernel: operations go in as data, completions come out with the operation and its memory.
//!
//! Time and randomness enter here too, so that a simulator can stand in for all of it. Knows no nodes, no rings of
//! guests and no tasks. An operation is owned by the implementation from `submit` to its completion, whatever happens
//! to whoever submitted it.

mod buf;
mod files;
mod heap;
mod inherited;
pub mod lock;
mod op;
mod shared;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod socket;
mod turns;
mod uring;
mod workers;

pub use buf::{Buf, Memory, Segment, byte_count};
pub use files::{AtOnce, FileId, FileInfo, FileTable};
pub use heap::give_back_unused_memory;
pub use inherited::take_inherited;
pub use op::{Completion, Op, OpKind, Token};
pub use shared::SharedWords;
pub use socket::Socket;
pub use turns::{let_others_go_first, take_short_turns};
pub use uring::Uring;
pub use workers::Workers;

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How long [`Io::turn`] may sleep when nothing has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until something completes.
    Forever,
    /// Until something completes or [`Io::now`] reaches this many nanoseconds.
    Until(u64),
}

/// Something to be done by whichever thread has time.
pub type Job = Box<dyn FnOnce() + Send>;

/// Kernel I/O, time and randomness, as one thread sees them.
pub trait Io {
    /// Takes an operation over; it comes back by `turn`. Callers keep to [`Io::room`]: an operation too many waits in
    /// memory, it is never refused.
    fn submit(&mut self, op: Op, token: Token);

    /// How many operations can be taken before the rings are full.
    fn room(&self) -> usize;

    /// Reports `token` each time `fd` (an eventfd) is written to, until `unwatch`.
    fn watch(&mut self, fd: Arc<OwnedFd>, token: Token);

    /// Ends a watch. A report already under way may still arrive.
    fn unwatch(&mut self, token: Token);

    /// Hands everything submitted to the kernel, sleeps as `wait` allows if nothing has completed, and appends what
    /// has. One system call at most.
    fn turn(&mut self, wait: Wait, completed: &mut Vec<Completion>);

    /// Has `job` done, by another thread where there is one.
    fn offload(&mut self, job: Job);

    /// Nanoseconds of a clock that never goes back; the same clock for all rings that work on the same files.
    fn now(&self) -> u64;

    /// A random number.
    fn random(&mut self) -> u64;
}
