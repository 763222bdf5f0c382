//! The copy of an image's content to another node: what an image itself has onto an older one, or a whole chain to where
//! a disk is restored.
//!
//! Zeroes are made by zeroing, and what has no space in the source takes none in the target. Done twice it is the same as
//! done once. Several pieces are on their way at a time, and never two of the same bytes.

use super::buffers::Buffers;
use super::layer::{Below, PIECE, Run, failed, run_at};
use super::window::Window;
use anyhow::{Result, anyhow};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
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
    pub async fn run(self, io: &Handle) -> Result<()> {
        let end = self.source.length();
        let mut copies = Copies::new(self);
        let copied = copies.range(io, 0, end).await;
        copies.end(io, copied).await
    }

    async fn copy(&self, io: &Handle, buffers: &Buffers, at: u64, len: u64) -> Result<()> {
        let piece = buffers.read(io, &self.source, at, len).await;
        let piece = piece.map_err(|error| failed("read", &self.source_path, at, error))?;
        if self.is_empty && piece.bytes().iter().all(|byte| *byte == 0) {
            buffers.done(piece);
            return Ok(());
        }
        let memory = self.change(io, Kind::Write, at, len, piece.into_memory()).await?;
        memory.into_buf().into_iter().for_each(|buf| buffers.keep(buf));
        Ok(())
    }

    /// Has the target do something; returns the memory that it was given for that.
    async fn change(&self, io: &Handle, kind: Kind, offset: u64, len: u64, memory: Memory) -> Result<Memory> {
        let (memory, result) = self.target.handle(io, Request { kind, fua: false, offset, len, memory }).await;
        match (result, kind) {
            (Ok(()), _) => Ok(memory),
            (Err(error), Kind::Flush) => Err(anyhow!("cannot make '{}' stable: {error}", self.target_path.display())),
            (Err(error), _) => Err(failed("write", &self.target_path, offset, error)),
        }
    }
}

/// Copies under way.
pub struct Copies {
    apply: Rc<Apply>,
    window: Window<Result<()>>,
    buffers: Buffers,
}

impl Copies {
    /// None yet.
    pub fn new(apply: Apply) -> Self {
        Self { apply: Rc::new(apply), window: Window::new(), buffers: Buffers::default() }
    }

    /// Begins to copy the bytes from `at` to `end`, of which only the disk's end need not be one of a block.
    ///
    /// # Errors
    /// The storage's; of copies that were begun before, too.
    pub async fn range(&mut self, io: &Handle, mut at: u64, end: u64) -> Result<()> {
        let apply = self.apply.clone();
        while at < end {
            let found = run_at(io, &apply.source, apply.below, at).await;
            let (len, run) = found.map_err(|error| failed("read", &apply.source_path, at, error))?;
            let len = len.min(end - at);
            at += match run {
                Run::Data => self.begin(io, at, len.min(PIECE), run).await?,
                Run::Zero if !apply.is_empty => self.begin(io, at, len.min(ZERO), run).await?,
                Run::Zero | Run::Absent => len,
            };
            apply.done.store(at, Ordering::Relaxed);
        }
        Ok(())
    }

    /// As [`Copies::range`], of several.
    ///
    /// # Errors
    /// As there.
    pub async fn ranges(&mut self, io: &Handle, ranges: Vec<Range<u64>>) -> Result<()> {
        for range in ranges {
            self.range(io, range.start, range.end).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, io: &Handle, at: u64, len: u64, run: Run) -> Result<u64> {
        self.window.room().await?;
        let (apply, handle, buffers) = (self.apply.clone(), io.clone(), self.buffers.clone());
        self.window.begin(io, async move {
            match run {
                Run::Data => apply.copy(&handle, &buffers, at, len).await,
                _ => apply.change(&handle, Kind::Zero { unmap: true }, at, len, Memory::empty()).await.map(drop),
            }
        });
        Ok(len)
    }

    /// Waits for all copies, and makes the target stable if `copied` and they say that all went well.
    ///
    /// # Errors
    /// The first one.
    pub async fn end(mut self, io: &Handle, copied: Result<()>) -> Result<()> {
        let drained = self.window.drain().await;
        copied.and(drained)?;
        self.apply.change(io, Kind::Flush, 0, 0, Memory::empty()).await.map(drop)
    }
}
