//! From a request to commands: pieces that the server takes, whole blocks, and what stands in for what it cannot do.

use super::Nbd;
use crate::error::IoError;
use crate::io::{Buf, Memory, byte_count};
use crate::nbd_wire::transmission::{Command, command_flags, export_flags};
use crate::node::{Kind, Outcome, Request};
use std::ops::Range;

/// Bytes of memory of one command at most.
const PIECE: u64 = 2 << 20;
/// Bytes of a command without data at most.
const BARE_MAX: u64 = 1 << 30;

impl Nbd {
    pub(in crate::node) async fn handle(&self, mut request: Request) -> Outcome {
        let range = request.offset..request.offset + request.len;
        let result = match request.kind {
            Kind::Read => self.read(range, &mut request.memory).await,
            Kind::Write => self.write(range, request.fua, Some(&request.memory)).await,
            Kind::Zero { unmap } => self.zero(range, request.fua, unmap).await,
            Kind::Discard => self.discard(range, request.fua).await,
            Kind::Flush => self.flush().await,
        };
        (request.memory, result)
    }

    /// The blocks that a range touches, as far as the server has bytes.
    fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        let align = u64::from(self.agreed.minimum);
        let end = range.end.next_multiple_of(align);
        range.start / align * align..end.min(self.agreed.size).max(range.end.min(self.agreed.size))
    }

    /// A range in pieces, each of which ends where a block does.
    fn pieces(&self, range: &Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let most = most.min(u64::from(self.agreed.maximum)) / u64::from(self.agreed.minimum);
        let most = (most * u64::from(self.agreed.minimum)).max(1);
        let Range { start, end } = range.clone();
        let pieces = start / most..end.div_ceil(most);
        // An empty range has none, wherever it is.
        let pieces = pieces.filter(move |_| start < end);
        pieces.map(move |piece| (piece * most).max(start)..((piece + 1) * most).min(end))
    }

    async fn read(&self, range: Range<u64>, memory: &mut Memory) -> Result<(), IoError> {
        // The last sector of a disk may be one that the server has only a part of.
        let there = range.end.min(self.agreed.size).max(range.start);
        memory.fill_zero(there - range.start, range.end - there);
        for piece in self.pieces(&(range.start..there), PIECE) {
            let blocks = self.blocks(&piece);
            let buf = self.read_blocks(blocks.clone()).await?;
            let skip = byte_count(piece.start - blocks.start);
            let len = byte_count(piece.end - piece.start);
            memory.copy_from(piece.start - range.start, &buf.as_slice()[skip..skip + len]);
        }
        Ok(())
    }

    async fn read_blocks(&self, blocks: Range<u64>) -> Result<Buf, IoError> {
        let len = blocks.end - blocks.start;
        let done = self.client.run((Command::Read, 0), (blocks.start, len), Some(Buf::new(byte_count(len)))).await?;
        done.result?;
        done.buf.ok_or(IoError::Io)
    }

    /// Writes `memory`, or zeroes.
    async fn write(&self, range: Range<u64>, fua: bool, memory: Option<&Memory>) -> Result<(), IoError> {
        for piece in self.pieces(&range, PIECE) {
            let blocks = self.blocks(&piece);
            // The server says what it thinks of bytes past its end.
            let blocks = blocks.start..blocks.end.max(piece.end);
            let partial = blocks != piece;
            let _held = if self.agreed.minimum > 1 { Some(self.ranges.lock(blocks.clone()).await) } else { None };
            let mut buf = match partial {
                true => self.read_blocks(blocks.clone()).await?,
                false => Buf::new(byte_count(piece.end - piece.start)),
            };
            let skip = byte_count(piece.start - blocks.start);
            let target = &mut buf.as_mut_slice()[skip..skip + byte_count(piece.end - piece.start)];
            match memory {
                Some(memory) => memory.copy_to(piece.start - range.start, target),
                None => target.fill(0),
            }
            let place = (blocks.start, blocks.end - blocks.start);
            self.client.run((Command::Write, self.fua(fua)), place, Some(buf)).await?.result?;
        }
        self.make_stable(fua).await
    }

    async fn zero(&self, range: Range<u64>, fua: bool, unmap: bool) -> Result<(), IoError> {
        if !self.agreed.can(export_flags::SEND_WRITE_ZEROES) {
            return self.write(range, fua, None).await;
        }
        let whole = self.whole_blocks(&range);
        if whole.is_empty() {
            return self.write(range, fua, None).await;
        }
        self.write(range.start..whole.start, fua, None).await?;
        let flags = self.fua(fua) | if unmap { 0 } else { command_flags::NO_HOLE };
        let _held = if self.agreed.minimum > 1 { Some(self.ranges.lock(whole.clone()).await) } else { None };
        for piece in bare_pieces(&whole) {
            self.client.run((Command::WriteZeroes, flags), piece, None).await?.result?;
        }
        drop(_held);
        self.write(whole.end..range.end, fua, None).await?;
        self.make_stable(fua).await
    }

    async fn discard(&self, range: Range<u64>, fua: bool) -> Result<(), IoError> {
        if self.agreed.can(export_flags::SEND_TRIM) {
            for piece in bare_pieces(&self.whole_blocks(&range)) {
                self.client.run((Command::Trim, self.fua(fua)), piece, None).await?.result?;
            }
        }
        self.make_stable(fua).await
    }

    async fn flush(&self) -> Result<(), IoError> {
        match self.agreed.can(export_flags::SEND_FLUSH) {
            true => self.client.run((Command::Flush, 0), (0, 0), None).await?.result,
            false => Ok(()),
        }
    }

    /// The blocks that lie in a range wholly.
    pub(super) fn whole_blocks(&self, range: &Range<u64>) -> Range<u64> {
        let align = u64::from(self.agreed.minimum);
        let end = range.end.min(self.agreed.size);
        let end = if end == self.agreed.size { end } else { end / align * align };
        let start = range.start.next_multiple_of(align).min(end);
        start..end
    }

    fn fua(&self, fua: bool) -> u16 {
        if fua && self.agreed.can(export_flags::SEND_FUA) { command_flags::FUA } else { 0 }
    }

    /// What stands in for FUA with a server that has none.
    async fn make_stable(&self, fua: bool) -> Result<(), IoError> {
        if fua && !self.agreed.can(export_flags::SEND_FUA) { self.flush().await } else { Ok(()) }
    }
}

/// Offsets and lengths.
fn bare_pieces(range: &Range<u64>) -> impl Iterator<Item = (u64, u64)> + use<> {
    let end = range.end;
    (range.start..end).step_by(byte_count(BARE_MAX)).map(move |start| (start, BARE_MAX.min(end - start)))
}
