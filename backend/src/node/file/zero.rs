//! Zeroes and discards: by the file system or device where it can, by writing zeroes where it cannot.

use super::File;
use crate::error::IoError;
use crate::io::{Buf, Memory, Op, OpKind, byte_count};
use crate::node::{Kind, Request};
use crate::reactor::Handle;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of zeroes written at a time.
const PIECE: u64 = 1 << 20;

/// How many discards the storage has taken, and how many not.
#[derive(Debug, Default)]
pub struct Discards {
    /// Those it has taken.
    pub done: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Those that failed, or that it has no means for.
    pub failed: AtomicU64,
}

impl Discards {
    fn count(&self, len: u64, done: bool) {
        let (operations, bytes) = if done { (&self.done, len) } else { (&self.failed, 0) };
        operations.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl File {
    /// Makes a range read as zeroes.
    pub(super) async fn zero(&self, io: &Handle, offset: u64, len: u64, unmap: bool) -> Result<(), IoError> {
        if unmap && let Some(result) = self.attempt(io, OpKind::Zero { unmap }, offset, len, &self.cannot_unmap).await {
            self.known.forget();
            return result;
        }
        let keep = OpKind::Zero { unmap: false };
        match self.attempt(io, keep, offset, len, &self.cannot_zero).await {
            Some(result) => result,
            None => self.write_zeroes(io, offset, len).await,
        }
    }

    /// Gives a range's space back. A discard is advice: storage that cannot is no error.
    pub(super) async fn give_back(&self, io: &Handle, offset: u64, len: u64) -> Result<(), IoError> {
        let result = self.attempt(io, OpKind::Discard, offset, len, &self.cannot_unmap).await;
        self.known.forget();
        self.discards.count(len, result == Some(Ok(())));
        result.unwrap_or(Ok(()))
    }

    /// Tries what the storage may not have; `None` when it has not. That is found out once per file, but for a range
    /// that is not whole blocks of a device, which says nothing of the next one.
    async fn attempt(
        &self,
        io: &Handle,
        kind: OpKind,
        offset: u64,
        len: u64,
        cannot: &AtomicBool,
    ) -> Option<Result<(), IoError>> {
        let mode = self.mode.get();
        let whole = !self.block_device || (offset | len) & u64::from(mode.alignment.max(512) - 1) == 0;
        if !whole || cannot.load(Ordering::Relaxed) {
            return None;
        }
        // A write that has read the block it is part of would write back what is being zeroed.
        let _range = self.hold_blocks(mode, offset, len).await;
        let (_, result) = io.run(Op::bare(kind, mode.id, offset, len)).await;
        if result == Err(IoError::Unsupported) {
            cannot.store(true, Ordering::Relaxed);
            return None;
        }
        Some(result)
    }

    /// Whether the storage has means of its own to make a range read as zeroes, for all that is known.
    pub(in crate::node) fn zeroes_fast(&self) -> bool {
        !self.cannot_zero.load(Ordering::Relaxed)
    }

    async fn write_zeroes(&self, io: &Handle, offset: u64, len: u64) -> Result<(), IoError> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let part = (end - at).min(PIECE);
            let memory = Memory::from(Buf::new(byte_count(part)));
            let request = Request { kind: Kind::Write, fua: false, offset: at, len: part, memory };
            self.write(io, request).await.0.1?;
            at += part;
        }
        Ok(())
    }
}
