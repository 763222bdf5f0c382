//! Direct I/O of what is not aligned: through a buffer, a piece at a time, so that memory stays bounded.

use super::File;
use super::mode::Mode;
use crate::error::IoError;
use crate::io::{Buf, Memory, Op, byte_count};
use crate::node::{Outcome, Request};
use crate::range_lock::Guard;
use crate::reactor::Handle;
use std::ops::Range;

/// Bytes bounced at a time per request.
const PIECE: u64 = 1 << 20;

impl Mode {
    /// The whole blocks that a range touches.
    fn blocks(self, offset: u64, len: u64) -> Range<u64> {
        let align = u64::from(self.alignment);
        let end = offset.saturating_add(len);
        offset / align * align..end.div_ceil(align).saturating_mul(align)
    }

    /// A request's blocks in pieces.
    fn pieces(self, request: &Request) -> impl Iterator<Item = Range<u64>> + use<> {
        let all = self.blocks(request.offset, request.len);
        // PIECE is a multiple of any alignment storage has.
        (all.start..all.end).step_by(byte_count(PIECE)).map(move |start| start..all.end.min(start + PIECE))
    }
}

impl File {
    /// Where writes may have to read what they overwrite: keeps all others out of the blocks of a range.
    pub(super) async fn hold_blocks(&self, mode: Mode, offset: u64, len: u64) -> Option<Guard<'_>> {
        match mode.reads_before_writing() {
            true => Some(self.ranges.lock(mode.blocks(offset, len)).await),
            false => None,
        }
    }

    pub(super) async fn read_bounced(&self, io: &Handle, mode: Mode, mut request: Request) -> Outcome {
        for piece in mode.pieces(&request) {
            let (buf, result) = read_blocks(io, mode, piece.clone()).await;
            if result.is_err() {
                return (request.memory, result);
            }
            let (at, skip) = overlap(&piece, request.offset);
            request.memory.copy_from(at, &buf.as_slice()[skip..]);
        }
        (request.memory, Ok(()))
    }

    pub(super) async fn write_bounced(&self, io: &Handle, mode: Mode, request: Request) -> Outcome {
        let end = request.offset + request.len;
        for piece in mode.pieces(&request) {
            let partial = piece.start < request.offset || piece.end > end;
            let (mut buf, result) = match partial {
                true => read_blocks(io, mode, piece.clone()).await,
                false => (new_buf(&piece), Ok(())),
            };
            if result.is_err() {
                return (request.memory, result);
            }
            let (at, skip) = overlap(&piece, request.offset);
            let until = byte_count(end.min(piece.end) - piece.start);
            request.memory.copy_to(at, &mut buf.as_mut_slice()[skip..until]);
            let (_, result) = io.run(Op::write(mode.id, piece.start, Memory::from(buf), request.fua)).await;
            if result.is_err() {
                return (request.memory, result);
            }
        }
        (request.memory, Ok(()))
    }
}

async fn read_blocks(io: &Handle, mode: Mode, piece: Range<u64>) -> (Buf, Result<(), IoError>) {
    let (op, result) = io.run(Op::read(mode.id, piece.start, Memory::from(new_buf(&piece)))).await;
    match op.memory.into_buf() {
        Some(buf) => (buf, result),
        None => (new_buf(&piece), Err(IoError::Io)),
    }
}

fn new_buf(piece: &Range<u64>) -> Buf {
    Buf::new(byte_count(piece.end - piece.start))
}

/// Where a piece starts in a request's memory, and how much of the piece lies before the request.
fn overlap(piece: &Range<u64>, offset: u64) -> (u64, usize) {
    (piece.start.saturating_sub(offset), byte_count(offset.saturating_sub(piece.start)))
}
