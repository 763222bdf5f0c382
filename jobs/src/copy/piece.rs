//! One piece on its way from one node to another. Knows neither of them.

use super::crew::{Crew, Failed};
use crate::event::Operation;
use std::ops::Range;
use tidemark_backend::error::IoError;
use tidemark_backend::io::Memory;
use tidemark_backend::node::{Kind, Request};

/// What becomes of a request.
pub(crate) type Answer = (Memory, Result<(), IoError>);

/// Reads a piece and writes it, with memory of the crew's.
///
/// # Errors
/// What failed, and why.
pub(crate) async fn bring(
    crew: &Crew,
    run: Range<u64>,
    read: impl AsyncFnOnce(Request) -> Answer,
    write: impl AsyncFnOnce(Request) -> Answer,
) -> Result<(), Failed> {
    let (offset, len) = (run.start, run.end - run.start);
    let request = |kind, memory| Request { kind, fua: false, offset, len, memory };
    let (memory, result) = read(request(Kind::Read, Memory::from(crew.buffer(len)))).await;
    result.map_err(|error| (Operation::Read, error))?;
    // The memory that comes back of a short transfer is what was left of it.
    let memory = memory.into_buf().map(Memory::from).ok_or((Operation::Read, IoError::Io))?;
    let (memory, result) = write(request(Kind::Write, memory)).await;
    crew.keep(memory.into_buf());
    result.map_err(|error| (Operation::Write, error))
}
