//! The copy of an image's content to another node: what an image itself has onto an older one, or a whole chain to where
//! a disk is restored.
//!
//! Zeroes are made by zeroing, and what has no space in the source takes none in the target. Done twice it is the same as
//! done once.

use super::layer::{Below, PIECE, Run, failed, read, run_at};
use anyhow::{Result, anyhow};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_backend::io::Memory;
use tidemark_backend::node::{Kind, Node, Request};
use tidemark_backend::reactor::Handle;

/// Bytes that are zeroed at a time.
const ZERO: u64 = 256 << 20;

/// What to copy where.
pub struct Apply {
    /// From here.
    pub source: Arc<Node>,
    /// The source's name.
    pub source_path: PathBuf,
    /// With what is below it, or without.
    pub below: Below,
    /// To here.
    pub target: Arc<Node>,
    /// The target's name.
    pub target_path: PathBuf,
    /// The target is all zeroes as it is.
    pub is_empty: bool,
    /// Bytes gone over.
    pub done: Arc<AtomicU64>,
}

impl Apply {
    /// Copies, and makes the target stable.
    ///
    /// # Errors
    /// The storage's.
    pub async fn run(&self, io: &Handle) -> Result<()> {
        self.range(io, 0, self.source.length()).await?;
        self.flush(io).await
    }

    /// Copies the bytes from `at` to `end`, of which only the disk's end need not be one of a block.
    ///
    /// # Errors
    /// The storage's.
    pub async fn range(&self, io: &Handle, mut at: u64, end: u64) -> Result<()> {
        while at < end {
            let found = run_at(io, &self.source, self.below, at).await;
            let (len, run) = found.map_err(|error| failed("read", &self.source_path, at, error))?;
            let len = len.min(end - at);
            let len = match run {
                Run::Data => self.copy(io, at, len.min(PIECE)).await?,
                Run::Zero if !self.is_empty => {
                    self.change(io, Kind::Zero { unmap: true }, at, len.min(ZERO), None).await?
                }
                Run::Zero | Run::Absent => len,
            };
            at += len;
            self.done.store(at, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the target stable.
    ///
    /// # Errors
    /// The storage's.
    pub async fn flush(&self, io: &Handle) -> Result<()> {
        self.change(io, Kind::Flush, 0, 0, None).await.map(drop)
    }

    async fn copy(&self, io: &Handle, at: u64, len: u64) -> Result<u64> {
        let bytes = read(io, &self.source, at, len).await;
        let bytes = bytes.map_err(|error| failed("read", &self.source_path, at, error))?;
        if self.is_empty && bytes.as_slice().iter().all(|byte| *byte == 0) {
            return Ok(len);
        }
        self.change(io, Kind::Write, at, len, Some(Memory::from(bytes))).await
    }

    async fn change(&self, io: &Handle, kind: Kind, offset: u64, len: u64, memory: Option<Memory>) -> Result<u64> {
        let memory = memory.unwrap_or_else(Memory::empty);
        let (_, result) = self.target.handle(io, Request { kind, fua: false, offset, len, memory }).await;
        match (result, kind) {
            (Ok(()), _) => Ok(len),
            (Err(error), Kind::Flush) => Err(anyhow!("cannot make '{}' stable: {error}", self.target_path.display())),
            (Err(error), _) => Err(failed("write", &self.target_path, offset, error)),
        }
    }
}
