//! The body of a mirror: takes what is dirty, waits until what made it so has landed, copies, again and again.
//!
//! What is dirty is taken when nothing is owed any more, so that what is changed often is copied once a round. What is
//! dirty already when the first round comes to it is left to the next. Between two rounds that leave nothing it sleeps.

use super::{COPY_MAX, Mirror, worker};
use crate::context::JobContext;
use crate::copy::crew::Crew;
use crate::copy::survey::Survey;
use crate::error::JobFailure;
use crate::event::{ErrorAction, Operation};
use crate::points;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::slice;
use tidemark_backend::epoch::Passage;
use tidemark_backend::error::IoError;
use tidemark_backend::node::copy_before_write::PIECE_MAX;
use tidemark_backend::node::{Released, Request};

/// How often a mirror that has nothing to do looks, and how long it waits after an error that it is to ignore, in
/// nanoseconds.
const SLICE_NS: u64 = 100_000_000;
/// How often it looks whether requests have ended, in nanoseconds.
const LOOK_NS: u64 = 100_000;
/// A round that took less has caught up if it leaves no more than the next one takes at a time, in nanoseconds.
const ROUND_NS: u64 = 1_000_000_000;
/// It says so if a background mirror is no nearer to its end after so long, in nanoseconds.
const BEHIND_NS: u64 = 10_000_000_000;

/// Chunks that were dirty, until what made them so has landed.
struct Settling {
    runs: Vec<Range<u64>>,
    bytes: u64,
    passage: Passage,
}

/// One mirror at work.
struct Follower<'a> {
    mirror: &'a Rc<Mirror>,
    ctx: &'a JobContext,
    crew: Rc<Crew>,
    /// Whether there is data.
    survey: Survey<bool>,
    settling: RefCell<Option<Settling>>,
    /// Where the next copy begins.
    at: Cell<u64>,
    /// Nothing was dirty when this round began.
    first: Cell<bool>,
    ready: Cell<bool>,
    /// When the round began, and the last one that left less than any before, with what it left.
    round: Cell<u64>,
    best: Cell<(u64, u64)>,
}

/// Runs a mirror until it has its result: the target is as the source is, and stays so if it is to take its place.
pub(super) async fn run(mirror: &Rc<Mirror>, ctx: &JobContext) -> Result<(), JobFailure> {
    mirror.match_lengths().await?;
    // What was under way when it began is not marked anywhere.
    ctx.unless_cancelled(mirror.pass()).await?;
    if mirror.mirroring.is_blocking() {
        mirror.mirroring.settle();
        mirror.state.blocks.set(true);
    }
    mirror.owe(ctx).await?;
    let now = ctx.io().read_clock();
    let follower = Follower {
        mirror,
        ctx,
        crew: Crew::new(mirror.plan.workers_max, COPY_MAX),
        survey: Survey::new(mirror.mirroring.granularity().bytes()),
        settling: RefCell::default(),
        at: Cell::new(0),
        first: Cell::new(true),
        ready: Cell::new(false),
        round: Cell::new(now),
        best: Cell::new((now, u64::MAX)),
    };
    let result = follower.follow().await;
    // A job that has no result waits for no throttle.
    let _released = result.is_err().then(|| Released::of([&mirror.plan.source, &mirror.plan.target]));
    follower.crew.all_done().await;
    follower.give_up_settling();
    result
}

impl Follower<'_> {
    async fn follow(&self) -> Result<(), JobFailure> {
        loop {
            self.handle_failures().await?;
            if self.ctx.wants_pause() {
                self.ctx.unless_cancelled(self.crew.all_done()).await?;
                self.ctx.pause_point().await?;
                // They failed while it waited; what they were about is dirty.
                self.mirror.mirroring.take_failure();
            }
            self.ctx.pause_point().await?;
            if self.mirror.state.wants_blocking.get() && !self.mirror.state.blocks.get() {
                self.block().await?;
            }
            self.land();
            if let Some(run) = self.next() {
                self.copy(run).await?;
            } else if !self.crew.is_idle() {
                self.ctx.unless_cancelled(self.crew.one_done()).await?;
            } else if self.settling.borrow().is_some() {
                self.ctx.io().sleep_until(self.ctx.io().read_clock().saturating_add(LOOK_NS)).await;
            } else if self.end_round().await? {
                return Ok(());
            } else {
                self.take_dirty();
            }
        }
    }

    /// Has changes reach both before they complete from now on.
    async fn block(&self) -> Result<(), JobFailure> {
        let mut edit = || self.mirror.mirroring.block();
        points::hold_in_the_end(self.ctx.io(), slice::from_ref(&self.mirror.plan.source), &mut edit).await;
        self.ctx.unless_cancelled(self.mirror.pass()).await?;
        self.mirror.mirroring.settle();
        self.mirror.state.blocks.set(true);
        Ok(())
    }

    /// Makes owed what was taken and has landed.
    fn land(&self) {
        let mut settling = self.settling.borrow_mut();
        let has_landed = settling.as_mut().is_some_and(|settling| settling.passage.is_over());
        if let Some(landed) = settling.take_if(|_| has_landed) {
            self.owe(&landed);
        }
    }

    /// Begins the next round: takes what is dirty.
    fn take_dirty(&self) {
        let mirroring = &self.mirror.mirroring;
        let (mut runs, mut bytes, mut from) = (Vec::new(), 0, 0);
        if mirroring.dirty().is_empty() {
            return;
        }
        while let Some(run) = mirroring.dirty().next_marked(from) {
            from = run.end;
            mirroring.dirty().take(run.start, run.end - run.start);
            bytes += run.end - run.start;
            runs.push(run);
        }
        // After all of them were taken: see the orderings of mirroring.
        let passage = Passage::of(self.mirror.plan.source.points().seats());
        let under_way = &self.mirror.state.under_way;
        under_way.set(under_way.get() + bytes);
        *self.settling.borrow_mut() = Some(Settling { runs, bytes, passage });
    }

    fn owe(&self, landed: &Settling) {
        let under_way = &self.mirror.state.under_way;
        under_way.set(under_way.get().saturating_sub(landed.bytes));
        landed.runs.iter().for_each(|run| self.mirror.mirroring.owed().mark(run.start, run.end - run.start));
        self.at.set(0);
    }

    /// What was taken is owed, however the body ends.
    fn give_up_settling(&self) {
        if let Some(settling) = self.settling.take() {
            self.owe(&settling);
        }
    }

    /// The next run to copy. In the first round what is dirty already is left to the next one.
    fn next(&self) -> Option<Range<u64>> {
        let (owed, dirty) = (self.mirror.mirroring.owed(), self.mirror.mirroring.dirty());
        loop {
            let found = owed.next_marked(self.at.get()).or_else(|| owed.next_marked(0));
            let Some(run) = found else {
                self.at.set(0);
                return None;
            };
            let again = dirty.next_marked(run.start).filter(|dirty| self.first.get() && dirty.start < run.end);
            match again {
                Some(again) if again.start <= run.start => {
                    let end = again.end.min(run.end);
                    owed.take(run.start, end - run.start);
                    self.at.set(end);
                }
                Some(again) => return Some(run.start..again.start),
                None => return Some(run),
            }
        }
    }

    async fn copy(&self, run: Range<u64>) -> Result<(), JobFailure> {
        self.ctx.unless_cancelled(self.crew.room()).await?;
        if self.crew.has_failed() {
            return Ok(());
        }
        let hole = self.hole_at(run.start).await;
        let block = self.mirror.mirroring.granularity().bytes();
        let most = if hole > 0 { hole } else { COPY_MAX.max(block) };
        let end = run.end.min(run.start.saturating_add(most));
        self.ctx.limit(if hole > 0 { 0 } else { end - run.start }).await?;
        // Requests may have brought some of it to the target meanwhile.
        let Some(run) = self.mirror.mirroring.owed().next_marked(run.start).filter(|left| left.start < end) else {
            return Ok(());
        };
        let run = run.start..run.end.min(end);
        self.mirror.mirroring.owed().take(run.start, run.end - run.start);
        self.at.set(run.end);
        worker::start(self.mirror, &self.crew, run, hole > 0);
        Ok(())
    }

    /// Bytes from `offset` that look like a hole, whole chunks, and not more than is zeroed in one go; 0 if it is data.
    async fn hole_at(&self, offset: u64) -> u64 {
        let (chunk, len) = (self.mirror.mirroring.granularity().bytes(), self.mirror.mirroring.owed().len());
        if self.survey.at(offset).is_none() {
            self.look_at(offset, self.survey.ahead(len - offset)).await;
        }
        self.survey.hole_at(offset, chunk, self.crew.hole(), len)
    }

    async fn look_at(&self, offset: u64, len: u64) {
        match self.mirror.source.visit().extent(self.ctx.io(), offset, len).await {
            Ok((found, data)) if found > 0 => self.survey.learn(offset, len, found, data),
            // A source that cannot tell is read; the read says what is wrong with it.
            _ => self.survey.learn(offset, len, PIECE_MAX, true),
        }
    }

    /// All that was taken is copied: says that it is ready, or ends, or sleeps. True at its end.
    async fn end_round(&self) -> Result<bool, JobFailure> {
        let (mirror, state) = (self.mirror, &self.mirror.state);
        let left = mirror.waiting();
        let took = self.ctx.io().read_clock().saturating_sub(self.round.replace(self.ctx.io().read_clock()));
        self.first.set(false);
        self.survey.forget();
        self.judge(left);
        let most = mirror.plan.workers_max as u64 * PIECE_MAX;
        if !self.ready.get() && (left == 0 || took < ROUND_NS && left <= most) {
            if !self.flush().await? {
                return Ok(false);
            }
            self.ready.set(true);
            self.ctx.ready();
        }
        state.synced.set(self.ready.get() && state.blocks.get() && mirror.mirroring.is_clean());
        if !self.ready.get() {
            return Ok(false);
        }
        if self.ctx.is_completing() || self.ctx.is_cancel_requested() {
            return self.finish().await;
        }
        if left == 0 || !state.blocks.get() {
            self.ctx.sleep(SLICE_NS).await;
        }
        Ok(false)
    }

    /// Notes whether rounds leave less and less, and says so if they do not.
    fn judge(&self, left: u64) {
        let (now, state) = (self.ctx.io().read_clock(), &self.mirror.state);
        let (since, least) = self.best.get();
        if left < least || left == 0 || self.ready.get() {
            self.best.set((now, left));
            state.behind.set(false);
        } else if now.saturating_sub(since) > BEHIND_NS && !state.behind.replace(true) {
            let job = self.ctx.job().id();
            tracing::warn!(
                job,
                left,
                "a mirror does not catch up with what guests write: give it more speed, or change its copy-mode to \
                 write-blocking (block-job-change)"
            );
        }
    }

    /// Ends if the target has all that the source has, and keeps having it.
    async fn finish(&self) -> Result<bool, JobFailure> {
        let (mirror, state) = (self.mirror, &self.mirror.state);
        let pivots = self.ctx.is_completing() && !self.ctx.is_cancel_requested();
        if !state.blocks.get() || !mirror.mirroring.drops_discards() || pivots && !state.flushes_along.get() {
            state.wants_blocking.set(true);
            if pivots && !state.flushes_along.replace(true) {
                let points = mirror.plan.source.points();
                let mut edit = || points.flush_along(mirror.plan.target.clone());
                points::hold_in_the_end(self.ctx.io(), slice::from_ref(&mirror.plan.source), &mut edit).await;
            }
            mirror.mirroring.drop_discards();
            self.ctx.unless_cancelled(mirror.pass()).await?;
            return Ok(false);
        }
        if !mirror.mirroring.is_clean() || !self.flush().await? || !mirror.mirroring.is_clean() {
            return Ok(false);
        }
        state.pivots.set(pivots);
        if !pivots {
            // Here and now; what is under way still comes to both.
            mirror.uninstall().await;
            if let Some(error) = mirror.mirroring.take_failure() {
                return Err(error.into());
            }
            self.flush_target().await?;
        }
        Ok(true)
    }

    /// Makes what was copied stable. False if that has failed and is to be tried again.
    async fn flush(&self) -> Result<bool, JobFailure> {
        match self.flush_target().await {
            Ok(()) => Ok(true),
            Err(error) => self.meet(Operation::Write, error).await.map(|()| false),
        }
    }

    async fn flush_target(&self) -> Result<(), IoError> {
        self.mirror.target.handle(self.ctx.io(), Request::flush()).await.1
    }

    /// Does what the policies say about copies and requests that have failed on the target. Those that were under way
    /// together count as one error, the first.
    async fn handle_failures(&self) -> Result<(), JobFailure> {
        if self.crew.has_failed() {
            self.ctx.unless_cancelled(self.crew.all_done()).await?;
        }
        let failed = self.crew.take_failures().first().copied();
        let failed = failed.or_else(|| self.mirror.mirroring.take_failure().map(|error| (Operation::Write, error)));
        match failed {
            Some((operation, error)) => self.meet(operation, error).await,
            None => Ok(()),
        }
    }

    async fn meet(&self, operation: Operation, error: IoError) -> Result<(), JobFailure> {
        self.mirror.state.synced.set(false);
        let policy = match operation {
            Operation::Read => self.mirror.plan.on_source_error,
            Operation::Write => self.mirror.plan.on_target_error,
        };
        match self.ctx.on_error(policy, operation, error) {
            ErrorAction::Report => return Err(error.into()),
            ErrorAction::Ignore => self.ctx.sleep(SLICE_NS).await,
            ErrorAction::Stop => {}
        }
        Ok(())
    }
}
