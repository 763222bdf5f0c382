//! The engine that copies owed chunks from a source to a target: several at a time, as many as the storage bears.
//!
//! Knows copy-before-write, through whose map it shares the work with guests' writes; knows no bitmaps and no backup.
//! Nothing is copied twice, and a chunk counts as copied when its write has completed.

pub(crate) mod crew;
mod flow;
pub(crate) mod piece;
pub(crate) mod survey;
mod top;
mod worker;

use crate::context::{JobContext, OnError};
use crate::error::JobFailure;
use crate::event::{ErrorAction, Operation};
use crew::Crew;
use std::rc::Rc;
use std::sync::Arc;
use survey::Survey;
use tidemark_backend::node::copy_before_write::{CopyBeforeWrite, PIECE_MAX};
use tidemark_backend::node::{Released, Root};
use worker::Work;

pub use flow::Flow;
pub use top::leave_out_below;

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
    let crew = Crew::new(options.workers_max, piece);
    let (copies, target) = (copy.clone(), target.clone());
    let work = Rc::new(Work { crew: crew.clone(), copy: copies, target, discarding });
    let survey = Survey::new(copy.map().chunk().bytes());
    let result = Copier { survey, ctx, copy, work: &work, crew: &crew, piece, options }.run().await;
    // A job that has no result waits for no throttle.
    let _released = result.is_err().then(|| Released::of([copy.source(), copy.target()]));
    crew.all_done().await;
    result
}

/// Whether what there was at the point in time can still be had: a guest's write may have gone over it.
///
/// # Errors
/// It cannot.
pub fn check_whole(copy: &CopyBeforeWrite) -> Result<(), JobFailure> {
    copy.broken_by().map_or(Ok(()), |error| Err(JobFailure::PointLost(error)))
}

struct Copier<'a> {
    /// Whether there is data; what is owed has not changed since.
    survey: Survey<bool>,
    ctx: &'a JobContext,
    copy: &'a Arc<CopyBeforeWrite>,
    work: &'a Rc<Work>,
    crew: &'a Crew,
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
                self.ctx.unless_cancelled(self.crew.all_done()).await?;
            }
            self.ctx.pause_point().await?;
            check_whole(self.copy)?;
            from = match self.copy.map().next_owed(from) {
                Some(offset) => self.copy_at(offset).await?,
                None if self.crew.is_idle() && self.copy.map().owed_bytes() == 0 => return Ok(()),
                None => {
                    self.wait().await?;
                    0
                }
            };
        }
    }

    /// Waits for a worker of ours, or for a write that copies a chunk itself.
    async fn wait(&self) -> Result<(), JobFailure> {
        if self.crew.is_idle() {
            self.ctx.sleep(LOOK_NS).await;
            Ok(())
        } else {
            self.ctx.unless_cancelled(self.crew.one_done()).await
        }
    }

    /// Starts a copy at an owed chunk; returns where to go on.
    async fn copy_at(&self, offset: u64) -> Result<u64, JobFailure> {
        self.ctx.unless_cancelled(self.crew.room()).await?;
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
        self.work.start(self.ctx.io(), run, hole > 0);
        Ok(next)
    }

    /// Bytes from `offset` that look like a hole, whole chunks, and not more than is zeroed in one go; 0 if it is data.
    async fn hole_at(&self, offset: u64) -> u64 {
        let (chunk, len) = (self.copy.map().chunk().bytes(), self.copy.map().len());
        // It goes back to the beginning after an error.
        if self.survey.at(offset).is_none() {
            self.look_at(offset, self.survey.ahead(len - offset)).await;
        }
        self.survey.hole_at(offset, chunk, self.crew.hole(), len)
    }

    /// Finds out what the source is from `offset` on.
    async fn look_at(&self, offset: u64, len: u64) {
        match self.copy.source().extent(self.ctx.io(), offset, len).await {
            Ok((found, data)) if found > 0 => self.survey.learn(offset, len, found, data),
            // A source that cannot tell is read; the read says what is wrong with it.
            _ => self.survey.learn(offset, len, self.piece, true),
        }
    }

    /// Does what the policies say about failed copies; whether there were any. Their chunks are owed again. Those that
    /// were under way together count as one error, the first, as with QEMU: a job stops once for it.
    async fn handle_failures(&self) -> Result<bool, JobFailure> {
        if !self.crew.has_failed() {
            return Ok(false);
        }
        self.ctx.unless_cancelled(self.crew.all_done()).await?;
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
