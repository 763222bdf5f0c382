//! The engine that copies owed chunks from a source to a target: several at a time, as many as the storage bears.
//!
//! Knows copy-before-write, through whose map it shares the work with guests' writes; knows no bitmaps and no backup.
//! Nothing is copied twice, and a chunk counts as copied when its write has completed.

mod flow;
mod worker;

use crate::context::{JobContext, OnError};
use crate::error::JobFailure;
use crate::event::{ErrorAction, Operation};
use flow::Flow;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_backend::node::Root;
use tidemark_backend::node::copy_before_write::{CopyBeforeWrite, PIECE_MAX};
use worker::Crew;

/// How often a chunk that a guest's write is copying is looked at, in nanoseconds.
const LOOK_NS: u64 = 1_000_000;

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// Copies at a time, at most.
    pub workers_max: usize,
    /// Bytes of one copy, at most; 0 for what suits.
    pub chunk_max: u64,
    /// About reads.
    pub on_source_error: OnError,
    /// About writes.
    pub on_target_error: OnError,
}

/// Copies until nothing is owed any more. What it copied it discards through `discarding`, a door to the source, if
/// there is one.
///
/// # Errors
/// The job was cancelled, or an error whose policy is to report it. Nothing of this is under way then.
pub async fn copy_owed(
    ctx: &JobContext,
    copy: &Arc<CopyBeforeWrite>,
    target: &Rc<Root>,
    discarding: Option<Rc<Root>>,
    options: CopyOptions,
) -> Result<(), JobFailure> {
    let piece = if options.chunk_max == 0 { PIECE_MAX } else { options.chunk_max.min(PIECE_MAX) };
    let crew = Crew::new(copy, target, discarding, Flow::new(options.workers_max));
    let result = Copier { data_until: Cell::new(0), ctx, copy, crew: &crew, piece, options }.run().await;
    crew.all_done().await;
    result
}

struct Copier<'a> {
    /// Up to where the source is known to be data.
    data_until: Cell<u64>,
    ctx: &'a JobContext,
    copy: &'a Arc<CopyBeforeWrite>,
    crew: &'a Rc<Crew>,
    piece: u64,
    options: CopyOptions,
}

impl Copier<'_> {
    async fn run(&self) -> Result<(), JobFailure> {
        let mut from = 0;
        loop {
            if self.handle_failures().await? {
                from = 0;
            }
            if self.ctx.wants_pause() {
                self.crew.all_done().await;
            }
            self.ctx.pause_point().await?;
            from = match self.copy.map().next_owed(from) {
                Some(offset) => self.copy_at(offset).await?,
                None if self.crew.is_idle() && self.copy.map().owed_bytes() == 0 => return Ok(()),
                None => {
                    self.wait().await;
                    0
                }
            };
        }
    }

    /// Waits for a worker of ours, or for a write that copies a chunk itself.
    async fn wait(&self) {
        if self.crew.is_idle() {
            self.ctx.sleep(LOOK_NS).await;
        } else {
            self.crew.one_done().await;
        }
    }

    /// Starts a copy at an owed chunk; returns where to go on.
    async fn copy_at(&self, offset: u64) -> Result<u64, JobFailure> {
        self.crew.room().await;
        if self.crew.has_failed() {
            return Ok(offset);
        }
        let hole = self.hole_at(offset).await;
        let max = if hole > 0 { hole } else { self.piece };
        self.ctx.limit(if hole > 0 { 0 } else { max }).await?;
        let Some(run) = self.copy.map().claim(offset, max, max) else {
            // A write has it.
            return Ok(offset + self.copy.map().chunk().bytes());
        };
        let next = run.end;
        self.crew.start(self.ctx.io(), run, hole > 0);
        Ok(next)
    }

    /// Bytes from `offset` that look like a hole, whole chunks; 0 if it is data.
    async fn hole_at(&self, offset: u64) -> u64 {
        let map = self.copy.map();
        if offset < self.data_until.get() {
            return 0;
        }
        let len = self.crew.hole().max(map.chunk().bytes()).min(map.len() - offset);
        // A source that cannot tell is read; the read says what is wrong with it.
        let found = self.copy.source().extent(self.ctx.io(), offset, len).await;
        match found {
            Ok((len, true)) => {
                self.data_until.set(offset + len);
                0
            }
            Ok((len, false)) if offset + len >= map.len() => map.len() - offset,
            Ok((len, false)) => len - len % map.chunk().bytes(),
            _ => 0,
        }
    }

    /// Does what the policies say about failed copies; whether there were any. Their chunks are owed again. Those that
    /// were under way together count as one error, the first, as with QEMU: a job stops once for it.
    async fn handle_failures(&self) -> Result<bool, JobFailure> {
        if !self.crew.has_failed() {
            return Ok(false);
        }
        self.crew.all_done().await;
        let Some((operation, error)) = self.crew.take_failures().first().copied() else { return Ok(false) };
        let policy = match operation {
            Operation::Read => self.options.on_source_error,
            Operation::Write => self.options.on_target_error,
        };
        match self.ctx.on_error(policy, operation, error) {
            ErrorAction::Report => Err(error.into()),
            ErrorAction::Ignore | ErrorAction::Stop => Ok(true),
        }
    }
}
